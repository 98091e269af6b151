"""`harmonica guidance`"""

from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils import UserError

HELP = "Scan the guidance scale of a model: FID and IS of its uncached images, from the same seeds."
EXAMPLE = "harmonica guidance --model pocket-dit --steps 20 --scales 1 1.25 1.5 -o guidance.csv"


def add_arguments(parser) -> None:
    parser.add_argument("--model", default="pocket-dit", help=f"{_shared.MODEL}; default: %(default)s")
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--steps", type=int, default=20, help="T, sampling steps; default: %(default)s")
    parser.add_argument("--scales", type=float, nargs="+", metavar="CFG", default=[1, 1.15, 1.25, 1.35, 1.5, 2],
                        help="guidance scales; default: %(default)s")  # fmt: skip
    parser.add_argument("--images", type=int, default=1000, help="per scale; default: %(default)s")
    _shared.image_seed_argument(parser)
    parser.add_argument("--reference", type=Path, help="made by `harmonica reference`; default: the extractor's own")
    parser.add_argument("-o", "--out", type=Path, required=True, help="csv")


def run(args) -> None:
    import pandas as pd
    from tqdm import tqdm

    from harmonica.checks.guidance import scan
    from harmonica.evaluation.features.networks import get_extractor
    from harmonica.evaluation.references import get_reference
    from harmonica.models import get_model
    from harmonica.utils import write_atomic

    if args.images < 100:
        raise UserError(f"FIDs of fewer than 100 images do not tell guidance scales apart, got {args.images}")
    model = get_model(args.model)
    reference = get_reference(model.extractor, args.reference, model)
    rows = scan(
        model.name, args.sampler or model.sampler, args.steps, args.scales, args.images,
        get_extractor(model.extractor), reference, args.seed,
    )  # fmt: skip
    found = list(tqdm(rows, total=len(args.scales), desc="guidance", unit="scale"))
    table = pd.DataFrame(found)
    write_atomic(args.out, table.to_csv(index=False, float_format="%.6g"))
    best = min(found, key=lambda row: row["FID"])
    print(table.to_string(index=False))
    print(f"lowest FID at a guidance scale of {best['cfg']:g}")
