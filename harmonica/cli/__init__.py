"""The command line, which the workflow's rules call, too: one file per command, discovered here.

A command is a module with `HELP` and `EXAMPLE`, `add_arguments(parser)`, and `run(args)` that returns an exit status
or None. Heavy imports wait until it runs. Packages add commands through the entry-point group `harmonica.commands`.
"""

import argparse
import importlib
import logging
import pkgutil
from importlib import metadata
from types import ModuleType

from harmonica import __version__
from harmonica.cli import _shared
from harmonica.utils import guarded
from harmonica.utils.job_log import log_times
from harmonica.utils.memory import keep_freed_memory


def commands() -> dict[str, ModuleType]:
    """The module of every command, by its name on the command line."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    found |= {point.name: point.load() for point in metadata.entry_points(group="harmonica.commands")}
    return {name.replace("_", "-"): found[name] for name in sorted(found)}


def build_parser() -> argparse.ArgumentParser:
    raw, found = argparse.RawDescriptionHelpFormatter, commands()
    parser = argparse.ArgumentParser(
        prog="harmonica", description="Learned and heuristic feature caching for diffusion transformers.",
        epilog="examples:\n  " + "\n  ".join(m.EXAMPLE for m in found.values()), formatter_class=raw,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"harmonica {__version__}")
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in found.items():
        p = sub.add_parser(name, help=module.HELP, description=module.HELP, epilog=f"example:\n  {module.EXAMPLE}",
                           formatter_class=raw)  # fmt: skip
        module.add_arguments(p)
        p.set_defaults(run=module.run)
    return parser


# torchao announces itself in every process that imports diffusers: deprecations, and formats of its older versions
for _name in ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    keep_freed_memory()
    status = guarded("harmonica", lambda: args.run(args))
    if status == 0:
        log_times(_shared.loaded_at)
    return status
