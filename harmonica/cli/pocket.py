"""`harmonica pocket`"""

from pathlib import Path

HELP = "Retrain the shipped pocket models from their data."
EXAMPLE = "harmonica pocket train --data fashion-mnist/ -o my-pocket/"


def add_arguments(parser) -> None:
    parser.add_argument("action", choices=["train"])
    parser.add_argument("--model", choices=["pocket-dit", "pocket-pixart", "pocket-uvit"], default="pocket-dit",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four .gz files, or "
                        "Noto emoji's unpacked npm package")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for checkpoints; default: %(default)s")
    parser.add_argument("-o", "--out", type=Path, required=True,
                        help="folder to make or replace (harmonica/pocket/ has the shipped ones)")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of every stage, for a trial; default: the recipe's")
    parser.add_argument(
        "--images", type=int, help="to measure quality; default: 1000 per seed, or the 400 held-out captions"
    )


def run(args) -> None:
    if args.model == "pocket-dit":
        from harmonica.pocket.build import build
    elif args.model == "pocket-uvit":
        from harmonica.pocket.build_uvit import build
    else:
        from harmonica.pocket.build_text import build
    options = {} if args.images is None else {"images": args.images}
    build(args.data, args.out, args.work, args.steps, **options)
