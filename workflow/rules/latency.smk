# All rows in one job that has the machine to itself: only interleaved times have honest ratios.
rule latency:
    input:
        [plan_file(r.slug) for r in ROWS],
    output:
        f"{OUT}/latency.json",
    params:
        batch=CONFIG["latency"]["batch"],
        rounds=CONFIG["latency"]["rounds"],
        code=provenance.source_hash("harmonica/latency.py", *MODEL_SOURCES),
    log:
        f"{OUT}/logs/latency/latency.log",
    benchmark:
        f"{OUT}/benchmarks/latency.tsv"
    message:
        "Timing all rows, alone on the machine"
    threads: workflow.cores
    resources:
        gpu=int(CONFIG["scale"] == "paper"),
    shell:
        "{PYTHON:q} -m harmonica.cli latency {input} --batch {params.batch} --rounds {params.rounds} "
        "-o {output} > {log} 2>&1"
