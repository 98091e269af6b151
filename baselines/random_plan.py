"""A control: HarmoniCa's plan with its reuses at random steps and branches, at exactly its MACs.

Each kind of branch (attention, MLP) keeps its number of reuses, so cost and CUR are equal; only *where* changes. A
router that does not beat it has learned how much to reuse, but not where.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import REUSE, Plan


@dataclass(frozen=True)
class RandomPlan(Method):
    title = "Random plan"
    requires = "harmonica"
    seeded = True

    draw: int = setting(0, "which random plan", at_least=0)

    def make(self, task: Task) -> Plan:
        source = task.plans[self.requires]
        rng = np.random.default_rng([task.seed, self.draw])
        actions = task.actions()
        kinds = np.array(task.layout.kinds)
        for kind in sorted(set(kinds)):
            columns = np.flatnonzero(kinds == kind)
            rows = source.steps - 1  # the first step computes everything
            count = int((source.actions[:, columns] == REUSE).sum())
            at = rng.choice(rows * len(columns), count, replace=False)
            actions[1 + at // len(columns), columns[at % len(columns)]] = REUSE
        return task.plan(actions)
