"""`harmonica check`"""

import sys
from pathlib import Path

HELP = "Compare the uncached row of a case with the published one, before routers are trained."
EXAMPLE = "harmonica check metrics.json --table table1 --case 50 --config table1.json -o checked.json"
# relative; the published rows are by the same protocol, but with other seeds, other captions and TensorFlow's network
TOLERANCES = {"FID": 0.10, "IS": 0.05, "CLIP": 0.03}


def add_arguments(parser) -> None:
    parser.add_argument("metrics", type=Path, help="of the uncached row, made by `harmonica metrics`")
    parser.add_argument("--table", required=True, help="a file in paper_tables/tables, or a name of your own")
    parser.add_argument("--case", required=True, help="of the table's configuration")
    parser.add_argument("--config", required=True, help="the table's configuration, JSON or a file with it")
    parser.add_argument("--force", action="store_true", help="report a difference, but succeed")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation.records import Metrics
    from harmonica.experiments import config as configuration
    from harmonica.utils import UserError, write_json
    from paper_tables.published import protocol_images
    from paper_tables.tables import of_config

    config = configuration.from_text(args.config)
    row = configuration.uncached(configuration.rows(config), args.case)
    metrics = Metrics.load(args.metrics)
    if row.slug not in metrics.rows:
        raise UserError(f"{args.metrics} has no metrics of {row.slug}")
    measured = metrics.rows[row.slug]
    e = row.experiment
    published = {} if e.model.own else of_config(args.table, config).published(e, e.protocol.steps)
    gaps = compared(measured, published)
    needed = protocol_images(e)
    comparable = measured["N"] == needed
    wrong = [k for k, gap in gaps.items() if abs(gap) > TOLERANCES[k]] if comparable else []
    found = ", ".join(f"{k} {measured[k]:.2f} (published {published[k]:.2f}, {100 * gaps[k]:+.1f} %)" for k in gaps)
    made_on = {"device": metrics.device, "images_made_on": metrics.images_made_on}
    about = {"row": row.slug, "N": measured["N"], "relative_gaps": gaps, "comparable": comparable, "forced": args.force}
    if not gaps:
        print(f"{row.slug}: the paper has no row to compare with", file=sys.stderr)
    elif not comparable:
        print(f"{row.slug}: {found}; not judged, since {measured['N']} images are not {needed}", file=sys.stderr)
    elif wrong and not args.force:
        raise UserError(
            f"{row.slug}: {found}: wrong weights, reference or protocol; nothing is trained before this is right "
            "(--config force=true goes on)"
        )
    else:
        print(f"{row.slug}: {found}", file=sys.stderr)
    write_json(args.out, about | made_on)


def compared(measured: dict, published: dict) -> dict[str, float]:
    """Relative differences of the metrics that both have."""
    return {k: measured[k] / published[k] - 1 for k in TOLERANCES if k in measured and k in published}
