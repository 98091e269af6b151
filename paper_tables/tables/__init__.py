"""One file per table, with TABLE in it; discovered here."""

import importlib
import pkgutil
from dataclasses import replace
from typing import Any

from harmonica.utils import unknown


def known_tables() -> list[str]:
    """The names of all tables; none is imported."""
    return [m.name for m in pkgutil.iter_modules(__path__)]


def get_table(name: str):
    """The table of that name. Raises UserError for an unknown one."""
    if name not in known_tables():
        raise unknown("table", name, known_tables())
    return importlib.import_module(f"{__name__}.{name}").TABLE


def of_config(name: str, config: dict[str, Any]):
    """The table of that name, or under that name the one that its configuration is like: its layout, its figures and
    its published numbers. Raises UserError if there is neither."""
    if "like" not in config:
        return get_table(name)
    shown = get_table(config["like"])
    return replace(shown, title=f"{name}, laid out as {shown.title[0].lower()}{shown.title[1:]}")
