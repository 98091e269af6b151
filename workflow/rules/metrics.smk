rule metrics:
    input:
        manifests=lambda w: manifests_of(
            w.table,
            [
                uncached_row(w.table, w.case),
                *converged_row(w.table, w.case),
                *measured_rows(w.table, w.case, w.group),
            ],
        ),
        reference=lambda w: reference_of(w.table, w.case),
        lpips=lambda w: (
            fetched(lpips.ALEXNET_WEIGHTS) if TABLES[w.table].get("lpips") else []
        ),
    output:
        f"{OUT}/metrics/{{table}}/{{case}}/{{group}}.json",
    log:
        f"{OUT}/logs/metrics/{{table}}_{{case}}_{{group}}.log",
    benchmark:
        f"{OUT}/benchmarks/metrics/{{table}}_{{case}}_{{group}}.tsv"
    priority: lambda w: priority("metrics", w.table, w.case, w.group)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt
        * minutes("metrics", w.table, w.case, w.group),
        mem_mb=lambda w, attempt: attempt
        * memory_mb("metrics", w.table, w.case, w.group),
    params:
        uncached=lambda w: uncached_row(w.table, w.case).slug,
        rows=lambda w: [r.slug for r in measured_rows(w.table, w.case, w.group)],
        targets=lambda w: target_options(w.table, w.case),
        networks=lambda w: network_options(w.table, w.case),
        shipped=lambda w: networks.shipped(case_model(w.table, w.case).extractor),
        clip_network=lambda w: clip.fingerprint(TABLES[w.table].get("clip")),
        option=lambda w, input: (
            f"--reference {input.reference}" if input.reference else ""
        ),
        code=files.source_hash(
            *(
                f"evaluation/{f}.py"
                for f in ("distances", "evaluate", "metrics", "statistics")
            ),
            "evaluation/features",
            *RECORDS,
        ),
    message:
        "Measuring the images of {wildcards.table}, case {wildcards.case}: {wildcards.group}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica metrics {input.manifests} --uncached {params.uncached} {params.targets} --only {params.rows} "
        "{params.networks} {params.option} -o {output} > {log} 2>&1"


# Wrong weights, reference or protocol show in the uncached row: no router is trained before it is right.
rule check:
    input:
        lambda w: f"{OUT}/metrics/{w.table}/{w.case}/{group_of(w.table, uncached_row(w.table, w.case))}.json",
    output:
        f"{OUT}/checked/{{table}}/{{case}}.json",
    log:
        f"{OUT}/logs/check/{{table}}_{{case}}.log",
    priority: FIRST
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    params:
        row=lambda w: uncached_row(w.table, w.case).slug,
        config=lambda w: json.dumps(TABLES[w.table]),
        force="--force" if config.get("force") else "",
    message:
        "Comparing the uncached row of {wildcards.table}, case {wildcards.case}, with the published one"
    shell:
        "harmonica check {input} --table {wildcards.table} --case {wildcards.case} --config {params.config:q} "
        "{params.force} -o {output} > {log} 2>&1"
