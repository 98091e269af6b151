# A heuristic needs no weights, at most files or a plan; a learned method also writes a router.
rule plan:
    input:
        lambda w: plan_needs(BY_SLUG[w.experiment]),
    output:
        plan=f"{OUT}/plans/{{experiment}}.safetensors",
    log:
        f"{OUT}/logs/plan/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/plan/{{experiment}}.tsv"
    wildcard_constraints:
        experiment=one_of([slug for slug, r in BY_SLUG.items() if not is_learned(r)]),
    priority: lambda w: plan_priority(w.experiment)
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=lambda w: BY_SLUG[w.experiment].arguments,
        source=lambda w: (
            f"--from {plan_file(BY_SLUG[w.experiment].requires)}"
            if BY_SLUG[w.experiment].requires
            else ""
        ),
        options=lambda w: training_options(BY_SLUG[w.experiment]),
        code=lambda w: plan_code(BY_SLUG[w.experiment]),
        compression=lambda w: compression_option([BY_SLUG[w.experiment]]),
        data=lambda w: plan_data(BY_SLUG[w.experiment]),
    message:
        "Making the plan {wildcards.experiment}"
    shell:
        "harmonica plan {params.arguments} {params.source} {params.options} {params.compression} "
        "-o {output.plan} > {log} 2>&1"


use rule plan as train with:
    output:
        plan=f"{OUT}/plans/{{experiment}}.safetensors",
        router=f"{OUT}/plans/{{experiment}}.router.safetensors",
    wildcard_constraints:
        experiment=LEARNED,
    resources:
        gpu=GPU,
    message:
        "Training the router {wildcards.experiment}"
