# Figures that belong to no single table, as .png and .pdf.
rule drift:
    input:
        lambda w: plans(drift_slugs(w.case)),
    output:
        f"{OUT}/drift/{{case}}.json",
    log:
        f"{OUT}/logs/drift/{{case}}.log",
    benchmark:
        f"{OUT}/benchmarks/drift/{{case}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
    params:
        options=lambda w: compute_options(
            "sampling", "table1", models_of(rows_of_case("table1", w.case))
        ),
        seed=TABLES["table1"]["seed"],
        code=files.source_hash("evaluation/drift.py", *files.SAMPLING, *RECORDS),
    message:
        "Measuring the drift of the latents, case {wildcards.case}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica drift {input} --seed {params.seed} {params.options} -o {output} > {log} 2>&1"


rule figure:
    input:
        files=lambda w: FIGURES[w.figure]["files"],
        others=lambda w: FIGURES[w.figure].get("others", []),
    output:
        png=report(
            f"{OUT}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf=f"{OUT}/figures/{{figure}}.pdf",
    log:
        f"{OUT}/logs/figure/{{figure}}.log",
    benchmark:
        f"{OUT}/benchmarks/figure/{{figure}}.tsv"
    wildcard_constraints:
        figure=one_of(list(FIGURES)),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        what=lambda w: FIGURES[w.figure]["what"],
        more=lambda w, input: FIGURES[w.figure]
        .get("more", "")
        .format(others=shlex.join(input.others)),
        code=TABLE_CODE,
    message:
        "Drawing {wildcards.figure}"
    shell:
        "harmonica figure {params.what} {input.files} {params.more} -o {output.png} > {log} 2>&1"


rule figures:
    input:
        [f"{OUT}/figures/{f}.png" for f in FIGURES],
        [f"{OUT}/{t}.csv" for t in TABLES if not TABLES[t].get("costs")],
    localrule: True
