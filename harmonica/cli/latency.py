"""`harmonica latency`"""

import sys
from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils.precision import PRECISIONS

HELP = "Time the denoising loop of several plans, interleaved; each is compared with the first one of its protocol."
EXAMPLE = "harmonica latency full.safetensors fora.safetensors --rounds 9"


def add_arguments(parser) -> None:
    _shared.plans_argument(parser)
    _shared.compression_argument(parser)
    parser.add_argument("--batch", type=int, default=8, help="images; default: %(default)s, as in the paper")
    parser.add_argument("--rounds", type=int, default=7, help="measurements per plan, at least; default: %(default)s")
    parser.add_argument("--max-rounds", type=int, help="go on up to so many while quartiles are wider than --tolerance")
    parser.add_argument("--tolerance", type=float, default=3, metavar="PERCENT",
                        help="of the speed-up, of its quartiles; default: %(default)s")  # fmt: skip
    parser.add_argument("--compiled", action="store_true",
                        help="time steps as graphs of torch.compile; compiling them takes minutes")  # fmt: skip
    parser.add_argument("--base", action="append", default=[], choices=PRECISIONS,
                        help="time the first plan of each model in this precision, too; repeatable")  # fmt: skip
    _shared.compute_arguments(parser)
    parser.add_argument("--precision-of", action="append", default=[], metavar="MODEL=PRECISION",
                        help="of the plans of a model, if it differs; repeatable")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, help="write JSON here")


def run(args) -> None:
    import torch

    from harmonica.evaluation.latency import base_of, measure
    from harmonica.evaluation.records import Latency
    from harmonica.evaluation.statistics import speedup
    from harmonica.runtimes.compiled import Compiled
    from harmonica.utils.memory import budget

    if args.compiled:
        _shared.check_compiler()
    plans, compressions = _shared.load_runs(args)
    names = list(dict.fromkeys(p.protocol.model for p in plans.values()))
    precisions = dict.fromkeys(names, args.precision) | _precisions(args.precision_of, names)
    _shared.loaded()
    result = measure(
        plans, args.batch, args.rounds, precision=precisions, memory=budget(args.memory),
        max_rounds=args.max_rounds, tolerance=args.tolerance / 100, compressions=compressions,
        policy=Compiled if args.compiled else None, bases=args.base,
    )  # fmt: skip
    first = next(iter(result))
    for name, row in result.items():
        base = base_of(name, plans) if name in plans else first
        ratio, q1, q3 = speedup(result[base]["rounds_s"], row["rounds_s"])
        times = f"{ratio:5.2f} x {'the first' if base == first else base} ({q1:.2f} … {q3:.2f})"
        print(f"{name:60} {1000 * row['latency_s']:9.1f} ms  {times}", file=sys.stderr)
    if args.out:
        about = _shared.hardware(", ".join(dict.fromkeys(precisions.values())))
        threads, rounds = torch.get_num_threads(), len(result[first]["rounds_s"])
        Latency(**about, batch=args.batch, rounds=rounds, threads=threads, compiled=args.compiled, plans=result).save(
            args.out
        )


def _precisions(given: list[str], models: list[str]) -> dict[str, str]:
    """By model. Raises UserError for an unknown model or precision."""
    from harmonica.models import known
    from harmonica.utils import unknown
    from harmonica.utils.precision import check_precision

    found = {}
    for item in given:
        name, _, precision = item.rpartition("=")
        about = known(name)
        model = about.name if about else name
        if model not in models:
            raise unknown("model of these plans", model, models)
        found[model] = check_precision(precision)
    return found
