"""`harmonica drift`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Measure how far the latents of several plans drift from the uncached ones."
EXAMPLE = "harmonica drift fora.safetensors hc.safetensors -o drift.json"


def add_arguments(parser) -> None:
    _shared.plans_argument(parser)
    parser.add_argument("--images", type=int, default=64, help="default: %(default)s")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation.drift import measure
    from harmonica.utils import write_json

    plans = _shared.load_plans(args.plans)
    _shared.loaded()
    write_json(args.out, measure(plans, args.images))
