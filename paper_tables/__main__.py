"""Lay out a table from what the workflow measured: `python -m paper_tables table1 --help`."""

import argparse
import json
import sys
import time
from pathlib import Path

from harmonica import provenance, shards, suite
from harmonica.errors import guarded
from harmonica.plan import Plan
from harmonica.timing import log_times
from paper_tables import figures
from paper_tables import table1 as layout


def main(argv: list[str] | None = None) -> int:
    started = time.time()
    parser = argparse.ArgumentParser(prog="python -m paper_tables", description=__doc__)
    parser.add_argument("table", choices=["table1"])
    parser.add_argument("--config", required=True, help="the workflow's configuration, JSON")
    for what in ("plans", "manifests", "metrics"):
        parser.add_argument(f"--{what}", type=Path, nargs="+", required=True)
    parser.add_argument("--latency", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    args = parser.parse_args(argv)
    status = guarded("paper_tables", lambda: table1(args))
    if status == 0:
        log_times(started)
    return status


def table1(args) -> None:
    config = json.loads(args.config)
    rows = suite.rows(config)
    files = {p.stem: p for p in args.plans}
    plans = {name: Plan.load(p) for name, p in files.items()}
    suite.check_plans(rows, plans)
    metrics = {k: v for p in args.metrics for k, v in json.loads(p.read_text()).items()}
    latency = json.loads(args.latency.read_text())
    table = layout.build(rows, plans, metrics, latency)
    samples = shards.read_manifests(args.manifests)
    first = {r.slug: shards.read(sorted(samples[r.slug])[:1])[0][:12] for r in rows}
    titles = dict(zip((r.slug for r in rows), table.method, strict=True))

    out = args.out
    figures.speedup(table, out / "figures" / "speedup.png")
    figures.routers(rows, plans, files, out / "figures" / "router.png")
    figures.grid(rows, first, titles, out / "figures" / "samples.png")
    provenance.write_whole(out / "table1.md", layout.markdown(table, latency, config["scale"]))
    record = {
        "commit": provenance.commit(), "versions": provenance.versions(), "device": provenance.device(),
        "latency_device": latency["device"], "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": config, "origins": {name: plan.origin.__dict__ for name, plan in plans.items()},
    }  # fmt: skip
    provenance.write_whole(out / "table1.provenance.json", json.dumps(record, indent=1) + "\n")
    provenance.write_whole(out / "table1.csv", table.to_csv(index=False, float_format="%.6g"))
    print(table[["case", "method", "steps", "IS", "FID", "sFID", "CUR", "theoretical_speedup", "speedup"]].to_string())


if __name__ == "__main__":
    sys.exit(main())
