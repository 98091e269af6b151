"""`harmonica moments`"""

import os
from pathlib import Path

HELP = "Encode ImageNet's pictures with a model's autoencoder; trainings on images read what is stored."
EXAMPLE = "harmonica moments dit-xl-2-256 --workers 16"


def add_arguments(parser) -> None:
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes that read pictures; default: one a core")  # fmt: skip
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"),
                        help="encode only the K-th of N parts, from 0; default: all")  # fmt: skip
    parser.add_argument("--done", type=Path, help="write what was encoded (JSON)")


def run(args) -> None:
    from harmonica.models import get_model
    from harmonica.models.training_images import MomentsIndex, store_moments
    from harmonica.utils import UserError

    k, n = args.part
    if not 0 <= k < n:
        raise UserError(f"--part takes K N with 0 ≤ K < N, got {k} {n}")
    folder = store_moments(get_model(args.model), args.workers, (k, n))
    print(folder)
    if args.done:
        MomentsIndex.load(folder / "index.json").save(args.done)
