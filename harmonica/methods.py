"""Methods are modules, found by being there: each has TITLE, a frozen dataclass `Settings` and `make`.

Where they live is said by entry points of the group "harmonica.methods": a package offers every module in it that does
not start with `_`, a module offers itself. A method's import must be light (no torch): the workflow lists them all.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
import types
import typing
from functools import cache
from importlib import metadata
from typing import Any, Protocol

from harmonica.errors import UserError, unknown
from harmonica.plan import Plan
from harmonica.router import Router

GROUP = "harmonica.methods"


class Method(Protocol):
    """What a method module offers."""

    TITLE: str  # as tables print it
    Settings: type  # a frozen dataclass

    # KINDS: tuple[str, ...], optional: the kinds of backbone it is for (models.py); default: all
    # REQUIRES: str, optional: the method whose plan, in task.plans, this one starts from
    # source(settings) -> (sampler, steps), optional: of that plan; "" and 0 for this experiment's own
    # title(settings) -> str, optional: as tables print it, where that depends on the settings
    # work(experiment, scale, sampler) -> learning.Work, of one that learns: what its training computes
    # files(experiment) -> list[str], optional: downloads it reads, by their names in harmonica/downloads.py

    def make(self, task, settings) -> Plan | Router:
        """The plan for this task, or the router (and its threshold, in the origin's notes)."""


@cache
def known() -> dict[str, str]:
    """Name -> import path of every method at hand; nothing is imported but the packages that hold them."""
    found: dict[str, str] = {}
    for point in metadata.entry_points(group=GROUP):
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
            if not module.name.startswith("_"):
                found[module.name] = f"{point.value}.{module.name}"
    return found


def title(name: str, settings: Any) -> str:
    """A method with these settings, as tables print it."""
    module = get_method(name)
    return module.title(settings) if hasattr(module, "title") else module.TITLE


def get_method(name: str) -> types.ModuleType:
    """The module of that method. Raises UserError for an unknown name or a module that is not a method."""
    if name not in known():
        raise unknown("method", name, known())
    try:
        module = importlib.import_module(known()[name])
    except Exception as e:  # whatever a file of somebody's own does wrong
        raise UserError(f"the method {name} ({known()[name]}) cannot be imported: {type(e).__name__}: {e}") from e
    missing = [part for part in ("TITLE", "Settings", "make") if not hasattr(module, part)]
    if missing:
        raise UserError(f"{module.__file__} is not a method: it lacks {', '.join(missing)}; see baselines/_template.py")
    return module


def make_settings(name: str, given: dict[str, Any]):
    """The typed settings of method `name` from a mapping. Raises UserError for an unknown key or a wrong type."""
    cls = get_method(name).Settings
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise unknown(f"setting of {name}", key, fields)
        values[key] = _typed(name, key, value, hints[key])
    try:
        return cls(**values)
    except TypeError as e:
        raise UserError(f"{name}: {e}") from None


def _typed(method: str, key: str, value: Any, hint: Any):
    """`value` as the type the field asks for; text (from a command line) is parsed."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value in (None, "None") and type(None) in options:
        return None
    for kind in options:
        if typing.get_origin(kind) is typing.Literal:
            if value in typing.get_args(kind):
                return value
            raise unknown(f"{key} of {method}", str(value), typing.get_args(kind))
        try:
            if kind is bool:
                return {"true": True, "false": False}[str(value).lower()]
            if kind in (int, float) and not isinstance(value, bool) and kind(value) == float(value):
                return kind(value)
            if kind is str and isinstance(value, str):
                return value
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    names = " or ".join(getattr(k, "__name__", str(k)) for k in options if k is not type(None))
    raise UserError(f"{method}: {key} = {value!r} is not {names}")


def spelled(settings) -> dict[str, Any]:
    """Settings that differ from their default."""
    return {f.name: v for f in dataclasses.fields(settings) if (v := getattr(settings, f.name)) != f.default}
