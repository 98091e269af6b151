"""`harmonica moments`"""

import os
from pathlib import Path

HELP = "Encode ImageNet's pictures with a model's autoencoder; trainings on images read what is stored."
EXAMPLE = "harmonica moments dit-xl-2-256 --workers 16"


def add_arguments(parser) -> None:
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes that read pictures; default: one a core")  # fmt: skip
    parser.add_argument("--done", type=Path, help="write what was encoded (JSON)")


def run(args) -> None:
    from harmonica.models import get_model
    from harmonica.models.training_images import MomentsIndex, store_moments

    folder = store_moments(get_model(args.model), args.workers)
    print(folder)
    if args.done:
        MomentsIndex.load(folder / "index.json").save(args.done)
