"""Lay out a table from what the workflow measured: `python -m paper_tables table1 --help`."""

import argparse
import json
import sys
import time
from pathlib import Path

from markdown_it import MarkdownIt

from harmonica import provenance, shards, suite
from harmonica.errors import guarded
from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.timing import log_times
from paper_tables import costs, figures, layout, studies, table1, table2, table3, transfer

FIRST = 12  # images in the grid
TABLES = {
    "table1": table1.TABLE, "table2": table2.TABLE, "table3": table3.TABLE, "transfer": transfer.TABLE,
    "sweep": studies.SWEEP, "ablations": studies.ABLATIONS,
}  # fmt: skip
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; }} table {{ border-collapse: collapse; margin: 1em 0; }}
td, th {{ border-bottom: 1px solid #ccc; padding: 0.2em 0.6em; text-align: right; white-space: nowrap; }}
td:first-child, th:first-child {{ text-align: left; }}</style></head><body>
{body}<p>Commit {commit}, torch {torch}, written {written}. What else the numbers can be followed back by is in
<code>{name}.provenance.json</code>.</p></body></html>
"""


def main(argv: list[str] | None = None) -> int:
    started = time.time()
    parser = argparse.ArgumentParser(prog="python -m paper_tables", description=__doc__)
    parser.add_argument("table", choices=[*TABLES, "table6"])
    parser.add_argument("--config", required=True, help="the workflow's configuration, JSON")
    parser.add_argument("--plans", type=Path, nargs="+", required=True)
    for what in ("manifests", "metrics"):
        parser.add_argument(f"--{what}", type=Path, nargs="+", help="not for table6, which is of costs alone")
    parser.add_argument("--latency", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    args = parser.parse_args(argv)
    status = guarded("paper_tables", lambda: write(args))
    if status == 0:
        log_times(started)
    return status


def write(args) -> None:
    """The table, readable and as csv, its figures, and what it can be followed back by."""
    config = json.loads(args.config)
    rows = suite.rows(config)
    files = {p.stem: p for p in args.plans}
    plans = {slug: Plan.load(p) for slug, p in files.items()}
    suite.check_plans(rows, plans)
    record = {
        "commit": provenance.commit(), "versions": provenance.versions(), "device": provenance.device(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "config": config,
        "origins": {slug: plan.origin.__dict__ for slug, plan in plans.items()},
    }  # fmt: skip
    if args.table == "table6":
        table = costs.build(rows, plans)
        finish(args, table, costs.markdown(table, record["device"], config["scale"]), record)
        return
    about, name, out = TABLES[args.table], args.table, args.out
    metrics = {p.stem: json.loads(p.read_text()) for p in args.metrics}
    latency = json.loads(args.latency.read_text())
    table = layout.build(about, rows, plans, metrics, latency)
    samples = shards.read_manifests(args.manifests)
    drawn = {r.slug: shards.read(sorted(samples[r.slug])[:1]) for r in rows}
    first = {slug: images[:FIRST] for slug, (images, _) in drawn.items()}
    labels = {slug: numbers[:FIRST].tolist() for slug, (_, numbers) in drawn.items()}
    titles = list(figures.named(table))
    figures.speedup(table, about.figure, out / "figures" / f"{name}-speedup.png")
    figures.routers(rows, plans, files, out / "figures" / f"{name}-router.png")
    figures.grid(rows, first, titles, asked(rows, labels), out / "figures" / f"{name}-samples.png")
    text = layout.markdown(about, table, latency, config["scale"])
    finish(args, table, text, record | {"latency_device": latency["device"]})


def finish(args, table, text: str, record: dict) -> None:
    """Write what every table has: to read, as a page, its provenance, and last the csv that the others go with."""
    out, name = args.out, args.table
    provenance.write_whole(out / f"{name}.md", text)
    page = PAGE.format(title=name, body=MarkdownIt("commonmark").enable("table").render(text), name=name,
                       torch=record["versions"]["torch"], **{k: record[k] for k in ("commit", "written")})  # fmt: skip
    provenance.write_whole(out / f"{name}.html", page)
    provenance.write_whole(out / f"{name}.provenance.json", json.dumps(record, indent=1) + "\n")
    provenance.write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    print(text)


def asked(rows: list[suite.Row], labels: dict[str, list[int]]) -> dict[str, list[str]]:
    """The captions of the first images of every case that draws captions."""
    out = {}
    for r in rows:
        model = get_model(r.experiment.model)
        if model.captions and r.case not in out:
            captions = model.captions.read()
            out[r.case] = [captions[k] for k in labels[r.slug]]
    return out


if __name__ == "__main__":
    sys.exit(main())
