"""Methods by name: every module with a Method is one, discovered through the entry-point group `harmonica.methods`.

An entry point that is a package offers all its modules that do not start with `_`, one that is a module offers itself.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint

from harmonica.methods.base import Method
from harmonica.utils import UserError, plugins, unknown

GROUP = "harmonica.methods"


@cache
def known_methods() -> dict[str, str]:
    """Name -> import path of every method; only the packages that contain them are imported.

    An entry point that cannot be imported, or that offers a name that is taken, is left out, and said so.
    """
    found: dict[str, str] = {}
    for point in plugins.entry_points(GROUP):
        try:
            offered = list(_offered(point))
        except plugins.Refused as e:
            print(f"harmonica: {e}", file=sys.stderr)
            continue
        for name, path in offered:
            try:
                plugins.take(found, name, path, point)
            except plugins.Refused as e:
                print(f"harmonica: {e}", file=sys.stderr)
    return found


def _offered(point: EntryPoint) -> Iterator[tuple[str, str]]:
    """Names and import paths of an entry point's methods. Raises plugins.Refused if it cannot be imported."""
    try:
        spec = importlib.util.find_spec(point.value)
    except Exception as e:  # any mistake in somebody else's package
        raise plugins.refused(point, f"cannot be imported ({type(e).__name__}: {e})") from None
    if spec is None:
        raise plugins.refused(point, "cannot be imported: there is no such module")
    if spec.submodule_search_locations is None:
        yield point.name, point.value
        return
    for module in pkgutil.iter_modules(spec.submodule_search_locations):
        if not module.name.startswith("_"):
            yield module.name, f"{point.value}.{module.name}"


def get_method(name: str) -> type[Method]:
    """The method of that name. Raises UserError if it is unknown, cannot be imported, or its module is not a method."""
    if name not in known_methods():
        raise unknown("method", name, known_methods())
    try:
        module = importlib.import_module(known_methods()[name])
    except Exception as e:  # any mistake in a user's own file
        raise UserError(
            f"the method {name} ({known_methods()[name]}) cannot be imported: {type(e).__name__}: {e}"
        ) from e
    own = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(own) != 1 or inspect.isabstract(own[0]) or not hasattr(own[0], "title"):
        raise UserError(f"{module.__file__} must define one Method with `title` and `make`; see baselines/_template.py")
    return own[0]


def source_file(name: str) -> str:
    """The file that defines a method."""
    return inspect.getfile(get_method(name))
