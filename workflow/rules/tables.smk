import json

TABLE_SOURCES = [
    str(p)
    for pattern in ("*.py", "published/*.csv")
    for p in (ROOT / "paper_tables").glob(pattern)
]
TABLE_SOURCES += [f"harmonica/{f}.py" for f in ("suite", "plan", "shape")]


rule table1:
    input:
        plans=[plan_file(r.slug) for r in ROWS],
        manifests=[m for case in CONFIG["cases"] for m in manifests_of(case)],
        metrics=expand(f"{OUT}/metrics/{{case}}.json", case=CONFIG["cases"]),
        latency=f"{OUT}/latency.json",
    output:
        csv="results/table1.csv",
        md="results/table1.md",
        provenance="results/table1.provenance.json",
        speedup="results/figures/speedup.png",
        router="results/figures/router.png",
        samples="results/figures/samples.png",
    log:
        f"{OUT}/logs/table/table1.log",
    benchmark:
        f"{OUT}/benchmarks/table1.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        config=json.dumps(CONFIG),
        code=provenance.source_hash(*TABLE_SOURCES),
    message:
        "Laying out table 1 and its figures"
    shell:
        "python -m paper_tables table1 --config {params.config:q} --plans {input.plans} "
        "--manifests {input.manifests} --metrics {input.metrics} --latency {input.latency} "
        "-o results > {log} 2>&1"
