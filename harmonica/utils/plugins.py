"""Classes by the name of their module, discovered through entry points.

An entry point that is a package offers all its modules that do not start with `_`, one that is a module offers itself.
"""

import importlib
import importlib.util
import inspect
import pkgutil
from importlib import metadata
from typing import Any

from harmonica.utils.errors import UserError, unknown


def discovered(group: str) -> dict[str, str]:
    """Name -> import path of every module of a group; only the packages that contain them are imported.

    Raises UserError for an entry point that cannot be imported.
    """
    found: dict[str, str] = {}
    for point in metadata.entry_points(group=group):
        try:
            spec = importlib.util.find_spec(point.value)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            raise UserError(f"the entry point {point.name!r} names {point.value}, which cannot be imported")
        if spec.submodule_search_locations is None:
            found[point.name] = point.value
            continue
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            if not module.name.startswith("_") and not module.ispkg:
                found[module.name] = f"{point.value}.{module.name}"
    return found


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
