rule plan:
    input:
        lambda w: plan_needs(BY_SLUG[w.experiment]),
    output:
        f"{OUT}/plans/{{experiment}}.safetensors",
    log:
        f"{OUT}/logs/plan/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/plan/{{experiment}}.tsv"
    priority: lambda w: plan_priority(w.experiment)
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=int(SCALE == "paper"),
    params:
        arguments=lambda w: BY_SLUG[w.experiment].arguments,
        source=lambda w: (
            f"--from {plan_file(BY_SLUG[w.experiment].requires)}"
            if BY_SLUG[w.experiment].requires
            else ""
        ),
        code=lambda w: plan_code(BY_SLUG[w.experiment]),
        weights=lambda w: weights(BY_SLUG[w.experiment].experiment.model),
    message:
        "Making the plan {wildcards.experiment}"
    shell:
        "harmonica plan {params.arguments} {params.source} -o {output} > {log} 2>&1"
