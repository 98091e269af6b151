"""The command line, which the workflow's rules call, too: one file per command, discovered here.

A command is a module with `HELP` and `EXAMPLE`, `add_arguments(parser)`, and `run(args)` that returns an exit status
or None. Heavy imports wait until it runs. Packages add commands through the entry-point group `harmonica.commands`.
"""

import argparse
import importlib
import io
import logging
import pkgutil
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

from harmonica import __version__
from harmonica.cli import _shared
from harmonica.utils import gpus, guarded, plugins
from harmonica.utils.job_log import log_times
from harmonica.utils.memory import keep_freed_memory

# options of which a smaller value takes less memory, by their names in the parsed arguments
MEMORY = {"batch": "--batch", "memory": "--memory", "set": "--set batch=…", "chunk": "--chunk", "workers": "--workers"}


def commands() -> dict[str, ModuleType]:
    """The module of every command, by its name on the command line."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    for point in plugins.entry_points("harmonica.commands"):
        try:
            plugins.take(found, point.name, _loaded(point), point)
        except plugins.Refused as e:
            print(f"harmonica: {e}", file=sys.stderr)
    return {name.replace("_", "-"): found[name] for name in sorted(found)}


def _loaded(point: EntryPoint) -> ModuleType:
    try:
        module = point.load()
    except Exception as e:  # any mistake in somebody else's file
        raise plugins.refused(point, f"cannot be imported ({type(e).__name__}: {e})") from None
    if not all(hasattr(module, k) for k in ("HELP", "EXAMPLE", "add_arguments", "run")):
        raise plugins.refused(point, "is not a command: it needs HELP, EXAMPLE, add_arguments and run")
    return module


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
    for stream in (sys.stdout, sys.stderr):  # Greek letters and any name of a file, in every locale
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    args = argparse.Namespace()
    status = guarded("harmonica", lambda: _parse(argv, args))
    if status:
        return status
    keep_freed_memory()
    status = guarded("harmonica", lambda: _run(args), [MEMORY[k] for k in MEMORY if k in args])
    if status == 0:
        log_times(_shared.loaded_at)
    return status


def _parse(argv: list[str] | None, args: argparse.Namespace) -> None:
    build_parser().parse_args(argv, args)


def _run(args: argparse.Namespace):
    gpus.take_requested()
    return args.run(args)
