"""Lay out a table from what the workflow measured: `python -m paper_tables table1 --help`."""

import argparse
import json
import sys
import time
from pathlib import Path

from harmonica import provenance, shards, suite
from harmonica.errors import guarded
from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.timing import log_times
from paper_tables import figures, layout, table1, table2, transfer

FIRST = 12  # images in the grid
TABLES = {"table1": table1.TABLE, "table2": table2.TABLE, "transfer": transfer.TABLE}


def main(argv: list[str] | None = None) -> int:
    started = time.time()
    parser = argparse.ArgumentParser(prog="python -m paper_tables", description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--config", required=True, help="the workflow's configuration, JSON")
    for what in ("plans", "manifests", "metrics"):
        parser.add_argument(f"--{what}", type=Path, nargs="+", required=True)
    parser.add_argument("--latency", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    args = parser.parse_args(argv)
    status = guarded("paper_tables", lambda: write(args))
    if status == 0:
        log_times(started)
    return status


def write(args) -> None:
    """The table, readable and as csv, its figures, and what it can be followed back by."""
    about, name = TABLES[args.table], args.table
    config = json.loads(args.config)
    rows = suite.rows(config)
    files = {p.stem: p for p in args.plans}
    plans = {slug: Plan.load(p) for slug, p in files.items()}
    suite.check_plans(rows, plans)
    metrics = {k: v for p in args.metrics for k, v in json.loads(p.read_text()).items()}
    latency = json.loads(args.latency.read_text())
    table = layout.build(about, rows, plans, metrics, latency)
    samples = shards.read_manifests(args.manifests)
    drawn = {r.slug: shards.read(sorted(samples[r.slug])[:1]) for r in rows}
    first = {slug: images[:FIRST] for slug, (images, _) in drawn.items()}
    labels = {slug: numbers[:FIRST].tolist() for slug, (_, numbers) in drawn.items()}
    titles = dict(zip((r.slug for r in rows), table.method, strict=True))

    out = args.out
    figures.speedup(table, about.figure, out / "figures" / f"{name}-speedup.png")
    figures.routers(rows, plans, files, out / "figures" / f"{name}-router.png")
    figures.grid(rows, first, titles, asked(rows, labels), out / "figures" / f"{name}-samples.png")
    provenance.write_whole(out / f"{name}.md", layout.markdown(about, table, latency, config["scale"]))
    record = {
        "commit": provenance.commit(), "versions": provenance.versions(), "device": provenance.device(),
        "latency_device": latency["device"], "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": config, "origins": {slug: plan.origin.__dict__ for slug, plan in plans.items()},
    }  # fmt: skip
    provenance.write_whole(out / f"{name}.provenance.json", json.dumps(record, indent=1) + "\n")
    provenance.write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    shown = ["case", "method", "steps", *about.shown, "CUR", "theoretical_speedup", "speedup"]
    print(table[shown].to_string())


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
