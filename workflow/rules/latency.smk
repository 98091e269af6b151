# All rows in one job that has the machine to itself: only interleaved times have honest ratios.
rule latency:
    input:
        plans=[plan_file(r.slug) for r in ROWS],
        weights=fetched(*dict.fromkeys(r.experiment.model for r in ROWS)),
    output:
        f"{OUT}/latency.json",
    log:
        f"{OUT}/logs/latency/latency.log",
    benchmark:
        f"{OUT}/benchmarks/latency.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        gpu=int(CONFIG["scale"] == "paper"),
    params:
        batch=CONFIG["latency"]["batch"],
        rounds=CONFIG["latency"]["rounds"],
        code=provenance.source_hash(
            "harmonica/latency.py", *provenance.SAMPLING_SOURCES
        ),
    message:
        "Timing all rows, alone on the machine"
    shell:
        "harmonica latency {input.plans} --batch {params.batch} --rounds {params.rounds} "
        "-o {output} > {log} 2>&1"
