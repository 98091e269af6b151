import json

TABLE_SOURCES = [
    p
    for pattern in ("**/*.py", "published/*.csv")
    for p in (ROOT / "paper_tables").glob(pattern)
]
TABLE_CODE = files.content_hash(*TABLE_SOURCES) + files.source_hash(
    "plan", "experiments", "evaluation/metrics.py"
)


# Every table is laid out by one command; its own choices are in paper_tables/tables/<table>.py, those of
# a table that is like another in that one's file.
rule table:
    input:
        plans=lambda w: plans_of(w.table),
        routers=lambda w: routers_of(w.table),
        compressions=lambda w: compressions_of(ROWS[w.table]),
        manifests=lambda w: manifests_of(w.table, ROWS[w.table]),
        metrics=lambda w: [
            x for case in TABLES[w.table]["cases"] for x in metrics_of(w.table, case)
        ],
        latency=f"{OUT}/latency/{{table}}.json",
    output:
        csv=f"{OUT}/{{table}}.csv",
        md=f"{OUT}/{{table}}.md",
        tex=f"{OUT}/{{table}}.tex",
        provenance=report(
            f"{OUT}/{{table}}.provenance.json",
            category="Provenance",
            labels={"table": "{table}"},
        ),
        html=report(
            f"{OUT}/{{table}}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            expand(
                f"{OUT}/figures/{{{{table}}}}-{{what}}.png",
                what=["speedup", "real", "router", "samples"],
            ),
            caption="../report/figure.rst",
            category="Figures of tables",
        ),
        pdf=expand(
            f"{OUT}/figures/{{{{table}}}}-{{what}}.pdf",
            what=["speedup", "real", "router", "samples"],
        ),
    log:
        f"{OUT}/logs/table/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/table/{{table}}.tsv"
    wildcard_constraints:
        table=OF_IMAGES,
    conda:
        ENVIRONMENT
    threads: 1
    params:
        out=lambda w, output: Path(output.csv).parent,
        config=lambda w: json.dumps(TABLES[w.table] | {"scale": SCALE}),
        code=TABLE_CODE,
    message:
        "Laying out {wildcards.table} and its figures"
    shell:
        "harmonica table {wildcards.table} --config {params.config:q} --plans {input.plans} "
        "--routers {input.routers} --compressions {input.compressions} --manifests {input.manifests} --metrics {input.metrics} "
        "--latency {input.latency} -o {params.out} > {log} 2>&1"


# A table of training costs needs only the plans.
rule costs:
    input:
        plans=lambda w: plans_of(w.table),
    output:
        csv=f"{OUT}/{{table}}.csv",
        md=f"{OUT}/{{table}}.md",
        tex=f"{OUT}/{{table}}.tex",
        provenance=report(
            f"{OUT}/{{table}}.provenance.json",
            category="Provenance",
            labels={"table": "{table}"},
        ),
        html=report(
            f"{OUT}/{{table}}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{OUT}/logs/table/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/table/{{table}}.tsv"
    wildcard_constraints:
        table=COSTS,
    conda:
        ENVIRONMENT
    threads: 1
    params:
        out=lambda w, output: Path(output.csv).parent,
        config=lambda w: json.dumps(TABLES[w.table] | {"scale": SCALE}),
        code=TABLE_CODE,
    message:
        "Laying out {wildcards.table}"
    shell:
        "harmonica table {wildcards.table} --config {params.config:q} --plans {input.plans} "
        "-o {params.out} > {log} 2>&1"


# Copies the configured scale's table to results/; its column `scale` names the scale.
rule publish:
    input:
        csv=f"{OUT}/{{table}}.csv",
        md=f"{OUT}/{{table}}.md",
        tex=f"{OUT}/{{table}}.tex",
        provenance=f"{OUT}/{{table}}.provenance.json",
    output:
        csv="results/{table}.csv",
        md="results/{table}.md",
        tex="results/{table}.tex",
        provenance="results/{table}.provenance.json",
    log:
        f"{OUT}/logs/publish/{{table}}.log",
    wildcard_constraints:
        table=one_of(list(TABLES)),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    message:
        f"results/{{wildcards.table}}.csv is that of the scale {SCALE}"
    shell:
        "cp {input} $(dirname {output.csv}) 2> {log}"
