"""`harmonica table`"""

import json
import time
from pathlib import Path
from typing import Any

HELP = "Lay out a table from what the workflow measured, with its figures and provenance."
EXAMPLE = "harmonica table table6 --config table6.json --plans results/pocket/plans/*.safetensors -o results/pocket"
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
article {{ font: 14px/1.4 sans-serif; margin: 1.5em; overflow-x: auto; }}
article table {{ border-collapse: collapse; margin: 1em 0; }}
article td, article th {{ border-bottom: 1px solid #ccc; padding: 0.2em 0.6em; text-align: right; }}
article tr {{ white-space: nowrap; }}
article td:first-child, article th:first-child {{ text-align: left; }}</style></head><body><article>
{body}<p>Commit {commit}, torch {torch}, written {written}. Plans, seeds and settings are in
<code>{name}.provenance.json</code>.</p></article></body></html>
"""


def add_arguments(parser) -> None:
    parser.add_argument("table", help="a file in paper_tables/tables, or a name of your own and in its configuration "
                        "`like`, one of those")  # fmt: skip
    parser.add_argument("--config", required=True, help="the table's configuration, JSON or a file with it")
    parser.add_argument("--plans", type=Path, nargs="+", required=True)
    parser.add_argument("--routers", type=Path, nargs="*", default=[], help="of the learned rows, for the figure")
    parser.add_argument("--compressions", type=Path, nargs="*", default=[], help="that rows run on")
    for what in ("manifests", "metrics"):
        parser.add_argument(f"--{what}", type=Path, nargs="*", default=[], help="not for a table of costs")
    parser.add_argument("--latency", type=Path, help="not for a table of costs")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")


def run(args) -> None:
    from harmonica.compression import Compression
    from harmonica.evaluation import generate
    from harmonica.evaluation.records import Latency, Manifest
    from harmonica.experiments import config as configuration
    from harmonica.plan import Plan
    from harmonica.utils import provenance
    from paper_tables.measured import Measured
    from paper_tables.tables import of_config

    config = configuration.from_text(args.config)
    about = of_config(args.table, config)
    rows = configuration.rows(config)
    plans = {p.stem: Plan.load(p) for p in args.plans if not p.name.endswith(".router.safetensors")}
    configuration.check_plans(rows, plans)
    device, lines = provenance.device(), [line[0].slug for line in configuration.by_method(rows)]
    record: dict[str, Any] = {
        "commit": provenance.commit(), "versions": provenance.versions(), "device": device,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "config": config,
        "protocols": {slug: plan.protocol.__dict__ for slug, plan in plans.items()},
        "origins": {slug: plan.origin.__dict__ for slug, plan in plans.items()},
    }  # fmt: skip
    compressions = {p.stem: Compression.load(p) for p in args.compressions}
    if compressions:
        record["compressions"] = {
            slug: c.origin.__dict__ | {"protocol": c.protocol.__dict__, "checksum": c.checksum}
            for slug, c in compressions.items()
        }
    latency = Latency.load(args.latency) if args.latency else None
    if latency:
        record["latency_made_on"] = {"device": latency.device, "precision": latency.precision}
    manifests = Manifest.read(args.manifests)
    record["images_made_on"], files = manifests.made_on, manifests.files
    metrics, record["references"] = read_metrics(args.metrics)
    measured = Measured(
        config["scale"], rows, plans, device,
        routers={p.name.removesuffix(".router.safetensors"): p for p in args.routers},
        metrics=metrics, compressions=compressions,
        latency=latency,
        images={slug: generate.read(sorted(files[slug])[:1]) for slug in lines if files},
    )  # fmt: skip
    table = about.build(measured)
    each = about.build(measured, seeds=True) if args.metrics else table
    if len(each) > len(table):
        record["by_training_seed"] = json.loads(each.to_json(orient="records"))
    record["verdicts"] = {case: [v._asdict() for v in found] for case, found in about.verdicts(table, measured).items()}
    about.draw(table, each, measured, args.out / "figures" / args.table)
    write(args.out, args.table, table, about.markdown(table, measured), record)


def read_metrics(paths: list[Path]) -> tuple[dict[str, dict[str, dict]], dict[str, dict]]:
    """The rows of metrics files <case>/<group>.json by case, with what their images were made on, and the reference of
    every case. Raises UserError if a case has two."""
    from harmonica.evaluation.records import Metrics
    from harmonica.utils import UserError

    metrics: dict[str, dict[str, dict]] = {}
    references: dict[str, dict] = {}
    for path in paths:
        case, found = path.parent.name, Metrics.load(path)
        if references.setdefault(case, found.reference) != found.reference:
            raise UserError(f"{path} and other metrics of the case {case} were measured against two references")
        own = {slug: row | {"images_made_on": found.images_made_on} for slug, row in found.rows.items()}
        metrics.setdefault(case, {}).update(own)
    return metrics, references


def write(out: Path, name: str, table, text: str, record: dict) -> None:
    """Write the table as markdown, LaTeX, page and csv, with its provenance; the csv, last, marks completion."""
    from markdown_it import MarkdownIt

    from harmonica.sharing import table_files
    from harmonica.utils import write_atomic
    from paper_tables.latex import from_markdown

    write_atomic(out / f"{name}.md", text)
    write_atomic(out / f"{name}.tex", from_markdown(text))
    page = PAGE.format(title=name, body=MarkdownIt("commonmark").enable("table").render(text), name=name,
                       torch=record["versions"]["torch"], **{k: record[k] for k in ("commit", "written")})  # fmt: skip
    write_atomic(out / f"{name}.html", page)
    table_files.write(out / f"{name}.csv", table, record)
    print(text)
