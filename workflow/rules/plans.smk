rule plan:
    input:
        lambda w: [plan_file(BY_SLUG[w.experiment].requires)] if BY_SLUG[w.experiment].requires else [],
    output:
        f"{OUT}/plans/{{experiment}}.safetensors",
    params:
        arguments=lambda w: BY_SLUG[w.experiment].arguments,
        source=lambda w, input: f"--from {input[0]}" if input else "",
        code=lambda w: plan_code(BY_SLUG[w.experiment]),
        weights=lambda w: weights(BY_SLUG[w.experiment].experiment.model),
    log:
        f"{OUT}/logs/plan/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/plan/{{experiment}}.tsv"
    message:
        "Making the plan {wildcards.experiment}"
    priority: 10
    threads: 1
    resources:
        gpu=lambda w: int(CONFIG["scale"] == "paper"),
    shell:
        "{PYTHON:q} -m harmonica.cli plan {params.arguments} {params.source} -o {output} > {log} 2>&1"
