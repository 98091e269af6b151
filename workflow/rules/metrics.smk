rule metrics:
    input:
        manifests=lambda w: manifests_of(w.case),
        reference=lambda w: reference_of(w.case),
    output:
        f"{OUT}/metrics/{{case}}.json",
    log:
        f"{OUT}/logs/metrics/{{case}}.log",
    benchmark:
        f"{OUT}/benchmarks/metrics/{{case}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=int(CONFIG["scale"] == "paper"),
    params:
        uncached=lambda w: suite.uncached(ROWS, w.case).slug,
        extractor=lambda w: case_model(w.case).extractor,
        network=lambda w: extractors.fingerprint(case_model(w.case).extractor),
        option=lambda w, input: (
            f"--reference {input.reference}" if input.reference else ""
        ),
        code=provenance.source_hash(
            *(
                f"harmonica/{f}.py"
                for f in (
                    "metrics",
                    "evaluation",
                    "extractors",
                    "inception",
                    "pocket/classifier",
                )
            )
        ),
    message:
        "Measuring the images of case {wildcards.case}"
    shell:
        "harmonica metrics {input.manifests} --uncached {params.uncached} "
        "--extractor {params.extractor} {params.option} -o {output} > {log} 2>&1"
