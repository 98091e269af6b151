"""Methods by name: every module with a Method is one, discovered through the entry-point group `harmonica.methods`."""

import inspect
from functools import cache

from harmonica.methods.base import Method
from harmonica.utils.plugins import discovered, only_class

GROUP = "harmonica.methods"


@cache
def known_methods() -> dict[str, str]:
    """Name -> import path of every method, see `plugins.discovered`."""
    return discovered(GROUP)


def get_method(name: str) -> type[Method]:
    """The method of that name. Raises UserError if it is unknown, cannot be imported, or its module is not a method."""
    return only_class("method", name, known_methods(), Method, "baselines/_template.py")


def source_file(name: str) -> str:
    """The file that defines a method."""
    return inspect.getfile(get_method(name))
