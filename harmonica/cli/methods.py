"""`harmonica methods`"""

import sys
import textwrap

HELP = "List the methods and the compressions with their settings: type, range, default and meaning."
EXAMPLE = "harmonica methods"


def add_arguments(parser) -> None:
    parser.add_argument("names", nargs="*", metavar="METHOD", help="default: all")


def run(args) -> None:
    from harmonica.compression import get_compressor, known_compressors
    from harmonica.methods import LearnedMethod, get_method, known_methods
    from harmonica.utils import UserError, described

    for name in args.names or [*sorted(known_methods()), *sorted(known_compressors())]:
        try:
            cls = get_compressor(name) if name in known_compressors() else get_method(name)
        except UserError as e:
            if args.names:
                raise
            print(f"{name}: {e}")
            continue
        about = " ".join((sys.modules[cls.__module__].__doc__ or "").split("\n\n")[0].split())
        kind = " (compression)" if name in known_compressors() else ""
        print(textwrap.fill(f"{name}{kind}: {about or cls.title}", 110))
        recipe = LearnedMethod.RECIPE if issubclass(cls, LearnedMethod) else ()
        for f in described(cls):
            default = "by scale" if f.default is None and f.name in recipe else f.default if f.default != "" else '""'
            allowed = f" in {f.range}" if f.range else ""
            print(f"    {f.name}: {f.type}{allowed} = {default}  {f.meaning}")
