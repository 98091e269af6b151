"""`harmonica drift`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Measure how far the latents of several plans drift from the uncached ones."
EXAMPLE = "harmonica drift fora.safetensors hc.safetensors -o drift.json"


def add_arguments(parser) -> None:
    _shared.plans_argument(parser)
    parser.add_argument("--images", type=_shared.count, default=64, help="default: %(default)s")
    _shared.image_seed_argument(parser)
    _shared.compute_arguments(parser)
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation.drift import measure
    from harmonica.evaluation.records import Drift
    from harmonica.utils.memory import budget

    plans = _shared.load_plans(args.plans)
    _shared.loaded()
    drift = measure(plans, args.images, args.precision, budget(args.memory), args.seed)
    Drift(**_shared.hardware(args.precision), images=args.images, drift=drift).save(args.out)
