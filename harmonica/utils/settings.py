"""Typed settings: frozen dataclasses with documented fields, read from a configuration or a command line."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from harmonica.utils.errors import UserError, unknown

Bound = float | str | None  # a name is that of a limit, known once the experiment is: "steps"


class Range(NamedTuple):
    """The values that a setting may have; a bound of None is infinite."""

    low: Bound = None
    high: Bound = None
    low_is_in: bool = True
    high_is_in: bool = True

    def __str__(self) -> str:
        low = f"{'[' if self.low_is_in else '('}{_spelled(self.low)}" if self.low is not None else "(-∞"
        high = f"{_spelled(self.high)}{']' if self.high_is_in else ')'}" if self.high is not None else "∞)"
        return f"{low}, {high}"

    def holds(self, value: float, limits: Mapping[str, float]) -> bool:
        """Whether a number is in it; a bound that `limits` does not have is not checked."""
        low, high = (limits.get(b) if isinstance(b, str) else b for b in (self.low, self.high))
        return math.isfinite(value) and not (
            (low is not None and (value < low or (value == low and not self.low_is_in)))
            or (high is not None and (value > high or (value == high and not self.high_is_in)))
        )


def _spelled(bound: Bound) -> str:
    return bound if isinstance(bound, str) else f"{bound:g}"


def setting(
    default: Any,
    meaning: str,
    *,
    at_least: Bound = None,
    above: Bound = None,
    at_most: Bound = None,
    below: Bound = None,
) -> Any:
    """A field of a dataclass of settings: its default, its meaning in one line, and the range of its values.

    A bound may be a name: "steps", "blocks" (of the model) or "half the blocks" (without the middle one).
    """
    low, high = (above if at_least is None else at_least), (below if at_most is None else at_most)
    allowed = Range(low, high, above is None, below is None)
    return dataclasses.field(default=default, metadata={"meaning": meaning, "range": allowed})


class Described(NamedTuple):
    name: str
    type: str
    range: str  # "" without bounds
    default: Any
    meaning: str


def described(cls: type) -> Iterator[Described]:
    """The fields of a dataclass of settings."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        allowed = f.metadata.get("range", Range())
        spelled = "" if allowed == Range() else str(allowed)
        yield Described(f.name, _type_name(hints[f.name]), spelled, f.default, f.metadata.get("meaning", ""))


def parse(cls: type, name: str, given: dict[str, Any], limits: Mapping[str, float] | None = None) -> Any:
    """An instance of a dataclass of settings from a mapping; text, from a command line, is converted.

    `limits` are the values of bounds that are names; without one, such a bound is not checked. Raises UserError, which
    begins with `name`, for an unknown key, a wrong type, a value out of its range, or what the dataclass refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise unknown(f"setting of {name}", key, fields)
        values[key] = _typed(name, key, value, hints[key])
        _check_range(name, key, values[key], fields[key].metadata.get("range", Range()), limits or {})
    try:
        return cls(**values)
    except TypeError as e:
        raise UserError(f"{name}: {e}") from None


def _check_range(owner: str, key: str, value: Any, allowed: Range, limits: Mapping[str, float]) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or allowed.holds(value, limits):
        return
    named = [f"{b} = {limits[b]:g}" for b in allowed[:2] if isinstance(b, str) and b in limits]
    raise UserError(f"{owner}: {key} must be in {allowed}{''.join(f', with {n}' for n in named)}, got {value:g}")


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


def assigned(option: str, items: Iterable[str]) -> dict[str, Any]:
    """What `option` KEY=VALUE on a command line assigns, numbers as such. Raises UserError for another form."""
    given = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} takes KEY=VALUE, got {item!r}")
        given[key] = _number(value)
    return given


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
