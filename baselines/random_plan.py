"""A control: HarmoniCa's plan with its reuses scattered at random over the steps, at exactly its MACs.

Each kind of branch (attention, MLP) keeps its number of reuses, so cost and CUR are the same; only *where* is lost. A
router that does not beat it has learned how much, but not where.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError
from harmonica.plan import REUSE, Plan

TITLE = "Random plan"
REQUIRES = "harmonica"


@dataclass(frozen=True)
class Settings:
    draw: int = 0  # which random plan


def make(task, settings: Settings) -> Plan:
    if settings.draw < 0:
        raise UserError(f"random_plan: draw is 0 or more, not {settings.draw}")
    source = task.plans[REQUIRES]
    rng = np.random.default_rng([task.experiment.seed, settings.draw])
    actions = np.zeros_like(source.actions)
    kinds = np.array(task.shape.kinds)
    for kind in sorted(set(kinds)):
        columns = np.flatnonzero(kinds == kind)
        rows = source.steps - 1  # the first step computes everything
        count = int((source.actions[:, columns] == REUSE).sum())
        at = rng.choice(rows * len(columns), count, replace=False)
        actions[1 + at // len(columns), columns[at % len(columns)]] = REUSE
    return Plan(actions, task.origin())
