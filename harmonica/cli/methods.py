"""`harmonica methods`"""

import sys
import textwrap
from collections.abc import Iterator

HELP = "List the methods and the compressions with their settings: type, range, default and meaning."
EXAMPLE = "harmonica methods"


def add_arguments(parser) -> None:
    parser.add_argument("names", nargs="*", metavar="METHOD", help="default: all")


def run(args) -> None:
    from harmonica.compression import get_compressor, known_compressors
    from harmonica.methods import get_method, known_methods
    from harmonica.utils import UserError

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
        for f in settings_of(cls):
            allowed = f" in {f.range}" if f.range else ""
            print(f"    {f.name}: {f.type}{allowed} = {f.default}  {f.meaning}")


def settings_of(cls: type) -> Iterator:
    """The settings of a method or a compressor as `utils.settings.Described`, with defaults as they are printed."""
    from harmonica.methods import LearnedMethod
    from harmonica.utils import described

    recipe = LearnedMethod.RECIPE if issubclass(cls, LearnedMethod) else ()
    for f in described(cls):
        default = "by scale" if f.default is None and f.name in recipe else f.default if f.default != "" else '""'
        yield f._replace(default=default)
