"""`harmonica embed`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Embed a model's captions with its text encoder; sampling and training read them."
EXAMPLE = "harmonica embed pixart-alpha-256"


def add_arguments(parser) -> None:
    parser.add_argument("model")
    parser.add_argument("--done", type=Path, help="write what was embedded (JSON)")


def run(args) -> None:
    from harmonica.models.embeddings import EmbeddingsIndex, embed

    folder = embed(_shared.captioned(args.model))
    print(folder)
    if args.done:
        EmbeddingsIndex.load(folder / "index.json").save(args.done)
