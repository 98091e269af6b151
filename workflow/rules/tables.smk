import json

TABLE_SOURCES = [
    str(p)
    for pattern in ("*.py", "published/*.csv")
    for p in (ROOT / "paper_tables").glob(pattern)
]
TABLE_SOURCES += [f"harmonica/{f}.py" for f in ("suite", "plan", "shape")]


# Every table is laid out by the same command; what differs is said in paper_tables/<table>.py.
rule table:
    input:
        plans=lambda w: plans_of(w.table),
        manifests=lambda w: manifests_of(w.table, ROWS[w.table]),
        metrics=lambda w: [
            f"{OUT}/metrics/{w.table}/{case}.json" for case in TABLES[w.table]["cases"]
        ],
        latency=f"{OUT}/latency/{{table}}.json",
    output:
        csv="results/{table}.csv",
        md="results/{table}.md",
        provenance=report(
            "results/{table}.provenance.json",
            category="Provenance",
            labels={"table": "{table}"},
        ),
        html=report(
            "results/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            expand(
                "results/figures/{{table}}-{what}.png",
                what=["speedup", "router", "samples"],
            ),
            caption="../report/figure.rst",
            category="Figures of tables",
        ),
        pdf=expand(
            "results/figures/{{table}}-{what}.pdf",
            what=["speedup", "router", "samples"],
        ),
    log:
        f"{OUT}/logs/table/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/{{table}}.tsv"
    wildcard_constraints:
        table="|".join(t for t in TABLES if not is_of_costs(t)),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        config=lambda w: json.dumps(TABLES[w.table] | {"scale": SCALE}),
        code=provenance.source_hash(*TABLE_SOURCES),
    message:
        "Laying out {wildcards.table} and its figures"
    shell:
        "python -m paper_tables {wildcards.table} --config {params.config:q} --plans {input.plans} "
        "--manifests {input.manifests} --metrics {input.metrics} --latency {input.latency} "
        "-o results > {log} 2>&1"


# A table of what training costs: nothing but the plans.
rule costs:
    input:
        plans=lambda w: plans_of(w.table),
    output:
        csv="results/{table}.csv",
        md="results/{table}.md",
        provenance=report(
            "results/{table}.provenance.json",
            category="Provenance",
            labels={"table": "{table}"},
        ),
        html=report(
            "results/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{OUT}/logs/table/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/{{table}}.tsv"
    wildcard_constraints:
        table="|".join(t for t in TABLES if is_of_costs(t)) or "none",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        config=lambda w: json.dumps(TABLES[w.table] | {"scale": SCALE}),
        code=provenance.source_hash(*TABLE_SOURCES),
    message:
        "Laying out {wildcards.table}"
    shell:
        "python -m paper_tables {wildcards.table} --config {params.config:q} --plans {input.plans} "
        "-o results > {log} 2>&1"
