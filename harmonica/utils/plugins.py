"""Entry points of this package and of others: one that cannot be used is left out, and names that are taken stay."""

from importlib import metadata
from typing import Any

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
