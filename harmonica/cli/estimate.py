"""`harmonica estimate`"""

import os
import sys
from pathlib import Path

from harmonica.utils import UserError, unknown

HELP = "Estimate tables' cost on this machine: hours, disk and memory of every rule."
EXAMPLE = "harmonica estimate results/table1.csv --scale paper --images 50000"


def add_arguments(parser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TABLE", help="results/table1.csv, or table1")
    parser.add_argument("--scale", choices=["pocket", "paper"], default="pocket", help="default: %(default)s")
    parser.add_argument("--images", type=int, help="per row; default: as configured")
    parser.add_argument("--cores", type=int, help="of the run; default: this machine's")


def run(args) -> None:
    import torch
    import yaml

    from harmonica.checks import estimate
    from harmonica.experiments import config
    from harmonica.utils import ROOT

    path = ROOT / "workflow" / "config" / f"{args.scale}.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: an estimate needs a checkout of the project")
    given = {"scale": args.scale} | ({} if args.images is None else {"images": args.images})
    print(f"estimating {', '.join(args.targets)} from scratch …", file=sys.stderr)
    known = config.tables(yaml.safe_load(path.read_text()), given)
    names = [Path(t).stem for t in args.targets]
    for name in names:
        if name not in known:
            raise unknown("table", name, known)
    gpu = torch.cuda.is_available()
    if not gpu and args.scale == "pocket":
        torch.set_num_threads(1)  # as in the workflow's jobs
    rules = estimate.estimate({n: known[n] for n in names}, args.scale, estimate.start_ups())
    print(estimate.text(rules, args.cores or len(os.sched_getaffinity(0)), gpu))
