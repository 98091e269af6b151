"""DeepCache: Accelerating Diffusion Models for Free (Ma et al. 2024, arXiv 2312.00858), on a DiT.

DeepCache recomputes what lies outside a skip level and reuses the deep feature that enters it. A DiT has no long skips:
here the outer k blocks on each side run at every step and the inner span's output is reused between full steps, which
come every N-th step. The stored output replaces the stream, so what the front blocks computed is lost at those steps.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError
from harmonica.nearest import nearest
from harmonica.plan import SPAN_OUTPUT, Plan

TITLE = "DeepCache"


@dataclass(frozen=True)
class Settings:
    interval: int | None = None  # N, every how many steps the inner span runs
    outer: int | None = None  # k, blocks on each side that always run
    target_cur: float = 25.0  # percent; decides what is not given, with N of 2 to 4


def make(task, settings: Settings) -> Plan:
    spans = task.shape.blocks
    most = (len(spans) - 1) // 2
    if settings.outer is not None and not 1 <= settings.outer <= most:
        raise UserError(f"deepcache: outer is between 1 and {most} for {len(spans)} blocks, not {settings.outer}")
    if settings.interval is not None and settings.interval < 1:
        raise UserError(f"deepcache: the interval is at least 1, not {settings.interval}")

    def plan(interval: int, outer: int) -> Plan:
        actions = np.zeros((task.steps, len(task.shape.branches)), np.uint8)
        between = np.arange(task.steps) % interval != 0
        actions[between, spans[outer][0] : spans[-outer - 1][1]] = SPAN_OUTPUT
        return Plan(actions, task.origin(notes={"interval": interval, "outer": outer}))

    intervals = range(2, 5) if settings.interval is None else [settings.interval]
    outers = range(1, most + 1) if settings.outer is None else [settings.outer]
    return nearest(settings.target_cur, (plan(n, k) for n in intervals for k in outers), task.shape)
