"""TaylorSeer: From Reusing to Forecasting (Liu et al., ICCV 2025, arXiv 2503.06923).

All branches are computed at the first two steps, and then at every N-th. There, factors are updated from the newest
output F: D₀ = F, Dᵢ₊₁ = (Dᵢ − Dᵢ at the last full step) / steps since then. k steps after it an output is forecast as
Σᵢ kⁱ/i! · Dᵢ, up to order O. Its "lite" form forecasts the last block's output only. Dᵢ is a weighted sum of the last
i + 1 outputs, so a plan holds at most order 3.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import COMPUTE, FORECAST, SPAN_FORECAST, Plan, match_macs


@dataclass(frozen=True)
class TaylorSeer(Method):
    title = "TaylorSeer"

    interval: int | None = setting(None, "N; default: the interval closest to target_cur", at_least=1, at_most="steps")
    target_cur: float = setting(60.0, "percent", above=0, at_most=100)
    order: int = setting(3, "O, the highest derivative", at_least=0, at_most=3)
    lite: bool = setting(False, "forecast the last block's output only")

    def label(self) -> str:
        return self.title + ("-lite" if self.lite else "")

    def make(self, task: Task) -> Plan:
        if self.interval is not None:
            return self._plan(task, self.interval)
        return match_macs(self.target_cur, (self._plan(task, n) for n in range(1, max(2, task.steps))), task.layout)

    def _plan(self, task: Task, interval: int) -> Plan:
        full = [s for s in range(task.steps) if s < 2 or (s - 1) % interval == 0]
        actions = task.actions() + (SPAN_FORECAST if self.lite else FORECAST)
        actions[full] = COMPUTE
        weights = np.zeros((task.steps, 1, self.order + 1))
        factors, last = (
            np.zeros((0, 0)),
            0,
        )  # Dᵢ as weights of the outputs, the newest first
        for s in range(task.steps):
            if s not in full:
                taylor = [(s - last) ** i / factorial(i) for i in range(len(factors))]
                weights[s, 0, : factors.shape[1]] = taylor @ factors
                continue
            older = np.pad(factors, ((0, 0), (1, 0)))  # the outputs of the last factors are one older now
            now = [np.eye(1, older.shape[1])[0] if len(older) else np.ones(1)]
            for i in range(min(self.order, len(factors))):
                now.append((now[i] - older[i]) / (s - last))
            factors, last = np.array(now)[:, : self.order + 1], s
        return task.plan(actions, weights=weights, interval=interval)
