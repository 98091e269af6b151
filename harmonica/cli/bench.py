"""`harmonica bench`"""

import re
from pathlib import Path

from harmonica.utils import UserError

HELP = "Measure the speed and memory targets: one line per case, with ratio and spread."
EXAMPLE = "harmonica bench inference --rounds 5"


def add_arguments(parser) -> None:
    suites = ["inference", "plain", "compiled", "training", "memory", "metrics", "startup", "attention"]
    parser.add_argument("suites", nargs="+", choices=suites)
    parser.add_argument("--rounds", type=int, default=3, help="of both sides, interleaved; default: %(default)s")
    parser.add_argument("-o", "--out", type=Path, help="also write a csv, with its provenance beside it; in a folder, "
                        "a file named after the device")  # fmt: skip
    parser.add_argument("--need-gpu", action="store_true", help="fail without a GPU, rather than measure the CPU")


def run(args) -> None:
    import pandas as pd
    import torch

    from harmonica.checks import bench
    from harmonica.utils import provenance, write_atomic, write_json
    from harmonica.utils.devices import default_device

    if args.rounds < 1:
        raise UserError(f"a benchmark needs at least one round, got {args.rounds}")
    device = provenance.device()
    if args.need_gpu and default_device().type == "cpu":
        raise UserError(f"no GPU is available here, only {device}")
    out = args.out
    if out and not out.suffix:
        out = out / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.csv"
    lines = []
    for suite in args.suites:
        for line in bench.SUITES[suite](args.rounds):
            print(f"{suite:10} {line}", flush=True)
            lines.append(line.record())
    if out:
        about = {"commit": provenance.commit(), "versions": provenance.versions(), "device": device,
                 "threads": torch.get_num_threads(), "rounds": args.rounds}  # fmt: skip
        write_json(out.with_suffix(".provenance.json"), about)
        write_atomic(out, pd.DataFrame(lines).to_csv(index=False, float_format="%.6g"))
        print(out)
