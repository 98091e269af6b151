"""FORA: Fast-Forward Caching in Diffusion Transformer Acceleration (Selvaraju et al. 2024, arXiv 2407.01425).

Every branch is computed at the first step and wherever the countdown index t = T−1 … 0 is a multiple of N; at the other
steps every branch output is reused.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError
from harmonica.nearest import nearest
from harmonica.plan import COMPUTE, REUSE, Plan

TITLE = "FORA"


@dataclass(frozen=True)
class Settings:
    interval: int | None = None  # N; default: the interval nearest to target_cur
    target_cur: float = 50.0  # percent


def make(task, settings: Settings) -> Plan:
    def plan(interval: int) -> Plan:
        countdown = np.arange(task.steps)[::-1]
        actions = np.where(countdown % interval, REUSE, COMPUTE).astype(np.uint8)
        actions[0] = COMPUTE
        table = np.repeat(actions[:, None], len(task.shape.branches), axis=1)
        return Plan(table, task.origin(notes={"interval": interval}))

    if settings.interval is not None:
        if settings.interval < 1:
            raise UserError(f"fora: the interval is at least 1, not {settings.interval}")
        return plan(settings.interval)
    return nearest(settings.target_cur, (plan(n) for n in range(2, max(3, task.steps))), task.shape)
