"""`harmonica compare`"""

from pathlib import Path

HELP = "Compare caching methods on a diffusers pipeline: fewer steps, reuse, forecasts, search, at equal MACs."
EXAMPLE = "harmonica compare --pipeline FOLDER --prompts prompts.txt --steps 28 --speedups 1.5 2 3 -o comparison/"


def add_arguments(parser) -> None:
    from harmonica.checks.compare import METHODS
    from harmonica.experiments import pipelines
    from harmonica.utils.precision import PRECISIONS

    pipelines.add_arguments(parser, required=True)
    parser.add_argument("--steps", type=int, default=28, help="of the uncached run; default: %(default)s")
    parser.add_argument("--cfg", type=float, help="guidance scale; default: that of the pipeline's call")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD",
                        help="beside fewer steps; default: %(default)s")  # fmt: skip
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.5, 2, 3], metavar="X",
                        help="times fewer MACs; default: %(default)s")  # fmt: skip
    parser.add_argument("--images", type=int, default=8, help="that are compared; default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.KEY=VALUE",
                        help="a setting of a method; repeatable")  # fmt: skip
    parser.add_argument("--latents", action="store_true", help="do not decode: compare final latents only")
    parser.add_argument("--seed", type=int, default=0, help="of images and searches; default: %(default)s")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32",
                        help="of the pipeline's weights; default: %(default)s")  # fmt: skip
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder: compare.csv, compare.html, plans/, and what they are of"
    )


def run(args) -> None:
    import pandas as pd

    from harmonica.checks import compare
    from harmonica.experiments import identity, pipelines
    from harmonica.sharing import table_files
    from harmonica.utils import UserError, write_atomic
    from harmonica.utils.settings import assigned
    from paper_tables import comparison

    if args.images < 1 or any(x <= 1 for x in args.speedups):
        raise UserError("--images must be at least 1, and every one of --speedups above 1")
    identity.check_seed(args.seed)
    calls = pipelines.calls_of(args)
    settings = _by_method(assigned("--set", args.set), args.methods)
    found = compare.candidates(calls, args.methods, args.speedups, args.out / "plans", settings, args.seed)
    pictures = not args.latents and getattr(calls.pipe, "vae", None) is not None
    compare.measure(calls, found, args.images, pictures, args.seed)
    table = pd.DataFrame(compare.rows(calls, found))
    table_files.write(args.out / "compare.csv", table, compare.provenance(calls, found, args.precision))
    write_atomic(args.out / "compare.html", comparison.page(calls, table, found))
    print(comparison.text(table))
    print(f"{args.out / 'compare.html'}")


def _by_method(given: dict, methods: list[str]) -> dict[str, dict]:
    from harmonica.utils import UserError

    out: dict[str, dict] = {}
    for key, value in given.items():
        method, dot, name = key.partition(".")
        if not dot or method not in methods:
            raise UserError(f"--set takes METHOD.KEY=VALUE, with a method of {', '.join(methods)}, got {key!r}")
        out.setdefault(method, {})[name] = value
    return out
