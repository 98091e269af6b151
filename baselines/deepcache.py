"""DeepCache: Accelerating Diffusion Models for Free (Ma et al. 2024, arXiv 2312.00858).

DeepCache recomputes what lies outside a skip level and reuses the deep feature that enters it. The outer k blocks on
each side run at every step; between full steps the output of the span inside them is reused. Full steps come every N-th
("uniform"), or closer together at the beginning ("quadratic": the distinct whole parts of squares, in general of p-th
powers, of evenly spaced numbers up to the p-th root of T).

On a U-ViT the last k blocks get what the first k computed through the long skips, as DeepCache wants it. A DiT has
none: the stored output replaces the stream, so what the front blocks computed is lost at those steps.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harmonica.errors import UserError
from harmonica.nearest import nearest
from harmonica.plan import SPAN_OUTPUT, Plan

TITLE = "DeepCache"


@dataclass(frozen=True)
class Settings:
    interval: int | None = None  # N, every how many steps the inner span runs, on average if quadratic
    outer: int | None = None  # k, blocks on each side that always run
    target_cur: float = 25.0  # percent; decides what is not given, with N of 2 to 4
    schedule: Literal["uniform", "quadratic"] = "uniform"  # of the full steps
    power: float = 2.0  # p of the quadratic schedule


def title(settings: Settings) -> str:
    return TITLE if settings.schedule == "uniform" else f"{TITLE}, {settings.schedule}"


def make(task, settings: Settings) -> Plan:
    spans = task.shape.blocks
    most = (len(spans) - 1) // 2
    if settings.outer is not None and not 1 <= settings.outer <= most:
        raise UserError(f"deepcache: outer is between 1 and {most} for {len(spans)} blocks, not {settings.outer}")
    if settings.interval is not None and settings.interval < 1:
        raise UserError(f"deepcache: the interval is at least 1, not {settings.interval}")
    if settings.power < 1:
        raise UserError(f"deepcache: the power is at least 1, not {settings.power:g}")

    def full_steps(interval: int) -> np.ndarray:
        if settings.schedule == "uniform":
            return np.arange(0, task.steps, interval)
        roots = np.linspace(0, task.steps ** (1 / settings.power), -(-task.steps // interval) + 1)
        return np.unique((roots[:-1] ** settings.power).astype(int))

    def plan(interval: int, outer: int) -> Plan:
        actions = np.zeros((task.steps, len(task.shape.branches)), np.uint8)
        between = np.setdiff1d(np.arange(task.steps), full_steps(interval))
        actions[between, spans[outer][0] : spans[-outer - 1][1]] = SPAN_OUTPUT
        return Plan(actions, task.origin(notes={"interval": interval, "outer": outer}))

    intervals = range(2, 5) if settings.interval is None else [settings.interval]
    outers = range(1, most + 1) if settings.outer is None else [settings.outer]
    return nearest(settings.target_cur, (plan(n, k) for n in intervals for k in outers), task.shape)
