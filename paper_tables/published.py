"""The paper's own numbers (paper_tables/published/*.csv), looked up for a row of ours."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "published"


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def lookup(name: str, **where) -> dict:
    """The row of a published table with these values, or {} where it has none."""
    t = table(name)
    for column, value in where.items():
        t = t[t[column] == value]
    return {} if t.empty else t.iloc[0].dropna().to_dict()
