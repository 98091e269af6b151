# All rows in one job, alone on a machine: only interleaved times give fair ratios.
rule latency:
    input:
        plans=lambda w: plans_of(w.table),
        compressions=lambda w: compressions_of(ROWS[w.table]),
        parts=lambda w: parts_of(ROWS[w.table]),
    output:
        f"{OUT}/latency/{{table}}.json",
    log:
        f"{OUT}/logs/latency/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/latency/{{table}}.tsv"
    priority: lambda w: priority("latency", w.table)
    conda:
        ENVIRONMENT
    threads: all_cores()
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt * minutes("latency", w.table),
        mem_mb=lambda w, attempt: attempt * memory_mb("latency", w.table),
        slurm_extra="--exclusive",
    params:
        runs=lambda w: runs_of(ROWS[w.table]),
        batch=lambda w: TABLES[w.table]["latency"]["batch"],
        options=lambda w: latency_options(w.table),
        data=lambda w: models_data(ROWS[w.table]),
        rounds=lambda w: rounds_options(TABLES[w.table]["latency"]),
        code=lambda w: files.source_hash(
            "evaluation/latency.py",
            "runtimes/compiled.py",
            "evaluation/statistics.py",
            *files.SAMPLING,
            *RECORDS,
            *(generate.COMPRESSED if compressions_of(ROWS[w.table]) else []),
        ),
    message:
        "Timing all rows of {wildcards.table}, alone on the machine"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica latency {params.runs} --batch {params.batch} {params.rounds} {params.options} "
        "-o {output} > {log} 2>&1"
