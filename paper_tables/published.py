"""The paper's own numbers (paper_tables/published/*.csv), looked up for a row of ours."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "published"
NAMES = {"full": "DDIM", "fewer_steps": "DDIM", "learning_to_cache": "Learning-to-Cache", "harmonica": "HarmoniCa"}


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def table1_row(method: str, steps: int, resolution: int = 256) -> dict:
    """The row of the paper's table 1 for DiT-XL/2 at this resolution, or {} where it has none."""
    t = table("table1_class_conditional")
    hit = t[(t.method == NAMES.get(method)) & (t.steps == steps) & (t.resolution == resolution)]
    return {} if hit.empty else hit.iloc[0].dropna().to_dict()
