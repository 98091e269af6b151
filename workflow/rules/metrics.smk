rule metrics:
    input:
        lambda w: manifests_of(w.case),
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
        extractor=lambda w: get_model(
            suite.uncached(ROWS, w.case).experiment.model
        ).extractor,
        network=lambda w: extractors.fingerprint(
            get_model(suite.uncached(ROWS, w.case).experiment.model).extractor
        ),
        code=provenance.source_hash(
            *(
                f"harmonica/{f}.py"
                for f in ("metrics", "extractors", "pocket/classifier")
            )
        ),
    message:
        "Measuring the images of case {wildcards.case}"
    shell:
        "harmonica metrics {input} --uncached {params.uncached} "
        "--extractor {params.extractor} -o {output} > {log} 2>&1"
