"""One file per table, with TABLE in it; discovered here."""

import importlib
import pkgutil

from harmonica.utils import unknown


def known_tables() -> list[str]:
    """The names of all tables; none is imported."""
    return [m.name for m in pkgutil.iter_modules(__path__)]


def get_table(name: str):
    """The table of that name. Raises UserError for an unknown one."""
    if name not in known_tables():
        raise unknown("table", name, known_tables())
    return importlib.import_module(f"{__name__}.{name}").TABLE
