ARGUMENTS = json.dumps({plan_file(s): r.arguments for s, r in HEURISTIC.items()})
CALIBRATIONS = {rule: calibration_arguments(s) for rule, s in CALIBRATED.items()}
run_lock.forget_incomplete(Path(".snakemake"), map(plan_file, SHARED))


# All heuristics that read nothing, in one process: each takes milliseconds. No parameters, and no command that changes:
# with other rows in the configuration those that are here are not made again.
rule plans:
    output:
        [plan_file(slug) for slug in HEURISTIC],
    log:
        f"{OUT}/logs/plans/all.log",
    benchmark:
        f"{OUT}/benchmarks/plans.tsv"
    priority: FIRST
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    message:
        "Making the plans of all heuristics"
    run:
        shell("harmonica plans {ARGUMENTS:q} > {log} 2>&1")


# Plans that a few runs of the model give, those of a case in one process: each takes less than its start. No parameters,
# as above.
for calibration, slugs in CALIBRATED.items():

    rule:
        name:
            calibration
        input:
            sorted({x for slug in slugs for x in plan_needs(BY_SLUG[slug])}),
        output:
            [plan_file(slug) for slug in slugs],
        log:
            f"{OUT}/logs/calibrations/{calibration}.log",
        benchmark:
            f"{OUT}/benchmarks/calibrations/{calibration}.tsv"
        priority: max(priority("search", slug) for slug in slugs)
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            gpu=GPU,
        message:
            f"Making {len(slugs)} plans: {calibration}"
        run:
            arguments = CALIBRATIONS[rule]
            shell(
                "HARMONICA_GPUS={resources.gpu} harmonica plans {arguments:q} > {log} 2>&1"
            )


# Other heuristics read files or a plan; a learned method also writes a router.
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
        experiment=one_of(
            [
                s
                for s, r in BY_SLUG.items()
                if not (is_learned(r) or s in SHARED or s in SEARCHED)
            ]
        ),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=0,
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
        "HARMONICA_GPUS={resources.gpu} harmonica plan {params.arguments} {params.source} {params.options} "
        "{params.compression} --processes {resources.gpu} -o {output.plan} > {log} 2>&1"


# Plans that are found by running the model: no router.
use rule plan as search with:
    wildcard_constraints:
        experiment=one_of(sorted(SEARCHED - set(SHARED))),
    priority: lambda w: priority("search", w.experiment)
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt * minutes("search", w.experiment),
        mem_mb=lambda w, attempt: attempt * memory_mb("search", w.experiment),
    message:
        "Searching the plan {wildcards.experiment}"


use rule plan as train with:
    output:
        plan=f"{OUT}/plans/{{experiment}}.safetensors",
        router=f"{OUT}/plans/{{experiment}}.router.safetensors",
    wildcard_constraints:
        experiment=LEARNED,
    priority: lambda w: priority("train", w.experiment)
    resources:
        gpu=lambda w: gpus_of(w.experiment),
        nodes=1,
        runtime=lambda w, attempt: attempt * minutes("train", w.experiment),
        mem_mb=lambda w, attempt: attempt * memory_mb("train", w.experiment),
    message:
        "Training the router {wildcards.experiment}"
