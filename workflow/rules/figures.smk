# Figures that are of no single table. Each is drawn by `python -m paper_tables.draw`, as .png and .pdf.
DRAW = "python -m paper_tables.draw {params.what} {input.files} {params.more} -o {output.png} > {log} 2>&1"


rule drift:
    input:
        lambda w: drift_plans(w.case),
    output:
        f"{OUT}/drift/{{case}}.json",
    log:
        f"{OUT}/logs/drift/{{case}}.log",
    benchmark:
        f"{OUT}/benchmarks/drift/{{case}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=int(SCALE == "paper"),
    params:
        code=provenance.source_hash("harmonica/drift.py", *provenance.SAMPLING_SOURCES),
    message:
        "Measuring the drift of the latents, case {wildcards.case}"
    shell:
        "harmonica drift {input} -o {output} > {log} 2>&1"


rule figure:
    input:
        files=lambda w: FIGURES[w.figure]["files"],
        others=lambda w: FIGURES[w.figure].get("others", []),
    output:
        png=report(
            "results/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf="results/figures/{figure}.pdf",
    log:
        f"{OUT}/logs/figure/{{figure}}.log",
    benchmark:
        f"{OUT}/benchmarks/figure/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        what=lambda w: FIGURES[w.figure]["what"],
        more=lambda w, input: FIGURES[w.figure]
        .get("more", "")
        .format(others=input.others),
        code=provenance.source_hash(
            "paper_tables/draw.py",
            "paper_tables/figures.py",
            "paper_tables/published/figure_speedup_sweep.csv",
        ),
    message:
        "Drawing {wildcards.figure}"
    shell:
        DRAW


rule figures:
    input:
        [f"results/figures/{f}.png" for f in FIGURES],
        [f"results/{t}.csv" for t in TABLES if not is_of_costs(t)],
