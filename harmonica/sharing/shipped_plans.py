"""Plans of the shipped models, one a model and speed-up: `harmonica/pocket/plans/pocket-dit-2x.safetensors`."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from harmonica.plan import Plan
from harmonica.sharing.measured import slugs_of
from harmonica.utils import POCKET

FOLDER = POCKET / "plans"


def paths() -> list[Path]:
    """Their files, by model and speed-up."""
    return sorted(FOLDER.glob("*.safetensors"))


def of_row(slugs: Collection[str], about: dict[str, Any]) -> Path | None:
    """The file that is the plan of a table's row, by its slugs and the table's provenance; None if none is."""
    if len(slugs) > 1:  # a mean over training seeds
        return None
    return next((path for path in paths() if set(slugs) & set(slugs_of(Plan.load(path), about))), None)
