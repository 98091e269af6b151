"""`harmonica embed`"""

import json
from pathlib import Path

from harmonica.cli import _shared

HELP = "Embed a model's captions with its text encoder; sampling and training read them."
EXAMPLE = "harmonica embed pixart-alpha-256"


def add_arguments(parser) -> None:
    parser.add_argument("model")
    parser.add_argument("--done", type=Path, help="write what was embedded (JSON)")


def run(args) -> None:
    from harmonica.models.embeddings import embed
    from harmonica.utils import write_json

    folder = embed(_shared.captioned(args.model))
    print(folder)
    if args.done:
        write_json(args.done, json.loads((folder / "index.json").read_text("utf-8")))
