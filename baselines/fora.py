"""FORA: Fast-Forward Caching in Diffusion Transformer Acceleration (Selvaraju et al. 2024, arXiv 2407.01425).

Every branch is computed at the first step and when the countdown index t = T−1 … 0 is a multiple of N; at the other
steps every branch output is reused.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import COMPUTE, REUSE, Plan, match_macs


@dataclass(frozen=True)
class FORA(Method):
    title = "FORA"

    interval: int | None = setting(None, "N; default: the interval closest to target_cur", at_least=1, at_most="steps")
    target_cur: float = setting(50.0, "percent", above=0, at_most=100)

    def make(self, task: Task) -> Plan:
        def plan(interval: int) -> Plan:
            actions = task.actions()
            actions[np.arange(task.steps)[::-1] % interval != 0] = REUSE
            actions[0] = COMPUTE
            return task.plan(actions, interval=interval)

        if self.interval is not None:
            return plan(self.interval)
        return match_macs(self.target_cur, (plan(n) for n in range(2, max(3, task.steps))), task.layout)
