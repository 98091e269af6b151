"""The files of a table: `NAME.csv`, and beside it `NAME.provenance.json` with the checksum of both, so that a table
that was damaged, or whose provenance is another's, is seen when it is read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonica.utils import UserError, write_atomic, write_json
from harmonica.utils.records import read_stamped, stamped

if TYPE_CHECKING:
    import pandas as pd

WHAT = "the provenance of a table"
KEY = "csv_sha256"


def provenance_of(path: Path) -> Path:
    """Where the provenance of a table is."""
    return path.with_suffix(".provenance.json")


def write(path: Path, table: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write a table and its provenance; the table, last, marks completion."""
    text = table.to_csv(index=False, float_format="%.6g").encode()
    write_json(provenance_of(path), stamped(about | {KEY: hashlib.sha256(text).hexdigest()}))
    write_atomic(path, text)


def read_provenance(path: Path) -> dict[str, Any]:
    """The record beside a table. Raises UserError if it is missing, damaged or none."""
    about = provenance_of(path)
    found = read_stamped(about, WHAT)
    if not {"config", "commit", "written", KEY} <= set(found):
        raise UserError(f"{about} is not {WHAT}: it lacks configuration, commit, date or the table's checksum")
    return found


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table and its provenance. Raises UserError if one of the files is missing or damaged, or they do not belong
    together."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path} does not exist: run `snakemake results/{path.stem}.csv`")
    about, content = read_provenance(path), path.read_bytes()
    if hashlib.sha256(content).hexdigest() != about.pop(KEY):
        raise UserError(
            f"{path} is not the table that its provenance is of: its checksum differs; delete it and make it again"
        )
    return pd.read_csv(io.BytesIO(content)), about
