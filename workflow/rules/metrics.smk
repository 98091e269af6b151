rule metrics:
    input:
        manifests=lambda w: manifests_of(w.table, rows_of_case(w.table, w.case)),
        reference=lambda w: reference_of(w.table, w.case),
    output:
        f"{OUT}/metrics/{{table}}/{{case}}.json",
    log:
        f"{OUT}/logs/metrics/{{table}}_{{case}}.log",
    benchmark:
        f"{OUT}/benchmarks/metrics/{{table}}_{{case}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        uncached=lambda w: configuration.uncached(ROWS[w.table], w.case).slug,
        rows=lambda w: [r.slug for r in rows_of_case(w.table, w.case)],
        extractor=lambda w: case_model(w.table, w.case).extractor,
        network=lambda w: networks.fingerprint(case_model(w.table, w.case).extractor),
        clip=lambda w: clip_options(w.table, w.case),
        clip_network=lambda w: clip.fingerprint(TABLES[w.table].get("clip")),
        option=lambda w, input: (
            f"--reference {input.reference}" if input.reference else ""
        ),
        code=files.source_hash(
            *(f"evaluation/{f}.py" for f in ("distances", "evaluate", "metrics")),
            "evaluation/features",
        ),
    message:
        "Measuring the images of {wildcards.table}, case {wildcards.case}"
    shell:
        "harmonica metrics {input.manifests} --uncached {params.uncached} --only {params.rows} "
        "--extractor {params.extractor} {params.option} {params.clip} -o {output} > {log} 2>&1"
