"""The paper's own numbers (paper_tables/published/*.csv), looked up for a row of ours."""

from pathlib import Path
from typing import Any

import pandas as pd

from harmonica.evaluation.metrics import METRICS
from harmonica.experiments import Experiment

FOLDER = Path(__file__).parent / "published"
SAMPLERS = {
    "ddim": "DDIM",
    "dpmsolver++": "DPM-Solver++",
    "iddpm": "IDDPM",
    "sa-solver": "SA-Solver",
    "dpm-solver": "DPM-Solver",
}
SAME_CUR = 6.0  # difference in points up to which a row caches as much as the paper's: FORA skips the first step, too


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def lookup(name: str, **where) -> dict:
    """The row of a published table with these values, or {} where it has none."""
    return _first(table(name), where)


def _first(t: pd.DataFrame, where: dict[str, Any]) -> dict:
    for column, value in where.items():
        t = t[t[column] == value]
    return {} if t.empty else t.iloc[0].dropna().to_dict()


def of_case(name: str, e: Experiment, steps: int, method: str | None, resolution: int) -> dict:
    """The paper's row for a plan of `steps` in a case of ours: by the same sampler, and compared there with an uncached
    row of as many steps as here. At the paper scale the guidance scale must be the paper's, too; where a table does not
    say it, the official one. {} where the paper has no such row."""
    t = table(name)
    is_uncached = t.speedup.isna()  # the first row of a case, which the others are compared with
    t["of"] = t.steps.where(is_uncached).ffill() if is_uncached.any() else t.steps
    found = _first(t, {"method": method, "resolution": resolution, "sampler": SAMPLERS[e.protocol.sampler],
                       "steps": steps, "of": e.protocol.steps})  # fmt: skip
    return of_guidance(found, e)


def of_guidance(found: dict, e: Experiment) -> dict:
    """A row of the paper, or {} at the paper scale under another guidance scale than its own."""
    other = e.model.scale == "paper" and found.get("cfg", e.model.cfg) != e.protocol.cfg
    return {} if other else found


def protocol_images(e: Experiment) -> int:
    """The images that the paper measures a row on: ImageNet's or COCO's."""
    return 30_000 if e.model.captions else 50_000


def of_images(found: dict, e: Experiment, images: int) -> dict:
    """A row of the paper, at the paper scale without its metrics beside another number of images than its own."""
    if e.model.scale != "paper" or images == protocol_images(e):
        return found
    return {k: v for k, v in found.items() if k not in METRICS}


def caches_as_much(found: dict, cur: float) -> bool:
    """Whether a row of this CUR in percent can stand beside the paper's, if that says one."""
    return abs(found.get("CUR", cur) - cur) <= SAME_CUR
