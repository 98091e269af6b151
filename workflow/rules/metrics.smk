rule metrics:
    input:
        lambda w: manifests_of(w.case),
    output:
        f"{OUT}/metrics/{{case}}.json",
    params:
        uncached=lambda w: suite.uncached(ROWS, w.case).slug,
        extractor=lambda w: get_model(suite.uncached(ROWS, w.case).experiment.model).extractor,
        code=provenance.source_hash("harmonica/metrics.py", "harmonica/extractors.py"),
    log:
        f"{OUT}/logs/metrics/{{case}}.log",
    benchmark:
        f"{OUT}/benchmarks/metrics/{{case}}.tsv"
    message:
        "Measuring the images of case {wildcards.case}"
    threads: 1
    resources:
        gpu=int(CONFIG["scale"] == "paper"),
    shell:
        "{PYTHON:q} -m harmonica.cli metrics {input} --uncached {params.uncached} "
        "--extractor {params.extractor} -o {output} > {log} 2>&1"
