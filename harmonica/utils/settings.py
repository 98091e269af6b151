"""Typed settings: frozen dataclasses with documented fields, read from a configuration or a command line."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from harmonica.utils.errors import UserError, unknown


def setting(default: Any, meaning: str) -> Any:
    """A field of a dataclass of settings: its default, and its meaning in one line for `harmonica methods`."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


class Described(NamedTuple):
    name: str
    type: str
    default: Any
    meaning: str


def described(cls: type) -> Iterator[Described]:
    """The fields of a dataclass of settings."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        yield Described(f.name, _type_name(hints[f.name]), f.default, f.metadata.get("meaning", ""))


def parse(cls: type, name: str, given: dict[str, Any]) -> Any:
    """An instance of a dataclass of settings from a mapping; text, from a command line, is converted.

    Raises UserError, which begins with `name`, for an unknown key, a wrong type, or what the dataclass refuses.
    """
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


def spelled(settings: Any) -> dict[str, Any]:
    """Settings that differ from their default."""
    return {f.name: v for f in dataclasses.fields(settings) if (v := getattr(settings, f.name)) != f.default}


def _options(hint: Any) -> tuple:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    return " | ".join("None" if k is type(None) else getattr(k, "__name__", str(k)) for k in _options(hint))


def _typed(owner: str, key: str, value: Any, hint: Any):
    """`value` as the type of the field."""
    options = _options(hint)
    if value in (None, "None") and type(None) in options:
        return None
    for kind in options:
        if typing.get_origin(kind) is typing.Literal:
            if value in typing.get_args(kind):
                return value
            raise unknown(f"{key} of {owner}", str(value), typing.get_args(kind))
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
    raise UserError(f"{owner}: {key} = {value!r} is not {names}")
