"""Entry points of this package and of others: one that cannot be used is left out, and names that are taken stay.

An entry point that is a package offers all its modules that do not start with `_`, one that is a module offers itself.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from harmonica.utils.errors import UserError, unknown

OWN = "harmonica-bench"  # the distribution of this project


class Refused(Exception):
    """An entry point that is left out: everything else goes on without it."""


def entry_points(group: str) -> list[metadata.EntryPoint]:
    """Those of a group in the order in which they take names: the library's, this project's, those of others."""

    def place(point: metadata.EntryPoint) -> tuple:
        own = _owner(point) == OWN
        return not own, not (own and point.value.startswith("harmonica.")), _owner(point), point.name

    return sorted(metadata.entry_points(group=group), key=place)


def refused(point: metadata.EntryPoint, why: str) -> Refused:
    """The error for an entry point, which says where it comes from."""
    return Refused(f"the entry point {point.name!r} of {_owner(point)} ({point.value}) {why}; it is left out")


def take(found: dict[str, Any], name: str, value: Any, point: metadata.EntryPoint) -> None:
    """Add what an entry point offers under a name. Raises Refused if the name is taken."""
    if name in found:
        raise refused(point, f"offers {name!r}, a name that is taken")
    found[name] = value


def _owner(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def discovered(group: str) -> dict[str, str]:
    """Name -> import path of every module of a group; only the packages that contain them are imported.

    An entry point that cannot be imported, or that offers a name that is taken, is left out, and said so.
    """
    found: dict[str, str] = {}
    for point in entry_points(group):
        try:
            offered = list(_offered(point))
        except Refused as e:
            print(f"harmonica: {e}", file=sys.stderr)
            continue
        for name, path in offered:
            try:
                take(found, name, path, point)
            except Refused as e:
                print(f"harmonica: {e}", file=sys.stderr)
    return found


def _offered(point: metadata.EntryPoint) -> Iterator[tuple[str, str]]:
    """Names and import paths of an entry point's modules. Raises Refused if it cannot be imported."""
    try:
        spec = importlib.util.find_spec(point.value)
    except Exception as e:  # any mistake in somebody else's package
        raise refused(point, f"cannot be imported ({type(e).__name__}: {e})") from None
    if spec is None:
        raise refused(point, "cannot be imported: there is no such module")
    if spec.submodule_search_locations is None:
        yield point.name, point.value
        return
    for module in pkgutil.iter_modules(spec.submodule_search_locations):
        if not module.name.startswith("_") and not module.ispkg:
            yield module.name, f"{point.value}.{module.name}"


def only_class(kind: str, name: str, known: dict[str, str], base: type, template: str) -> Any:
    """The one class of a module that extends `base`, with a `title`.

    Raises UserError if the name is unknown, its module cannot be imported, or has no such class or several.
    """
    if name not in known:
        raise unknown(kind, name, known)
    try:
        module = importlib.import_module(known[name])
    except Exception as e:  # any mistake in a user's own file
        raise UserError(f"the {kind} {name} ({known[name]}) cannot be imported: {type(e).__name__}: {e}") from e
    own = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, base)]
    own = [c for c in own if c.__module__ == module.__name__]
    if len(own) != 1 or inspect.isabstract(own[0]) or not hasattr(own[0], "title"):
        raise UserError(f"{module.__file__} must define one {base.__name__} with `title` and `make`; see {template}")
    return own[0]
