"""DPCache: key steps by dynamic programming (CVPR 2026, arXiv 2602.22654).

A few uncached trajectories are recorded. If the steps i < j < k are computed one after the other, what lies between j
and k is forecast from i and j, and the cost of (i, j, k) is the sum of ‖h − its forecast‖₁ over it, h the last block's
output. The first three steps are computed, and of all choices of so many steps the one with the smallest sum of costs
is found. The paper keeps one predecessor of every step; here the states are pairs (i, j), so that the minimum is exact.
Between two computed steps the forecast is the line through the two before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, Task, forecasts, setting
from harmonica.plan import SPAN_FORECAST, Plan, Protocol, count_at
from harmonica.plan.forecast import lagrange
from harmonica.utils import UserError

FORCED = 3  # steps computed at first


@dataclass(frozen=True, kw_only=True)
class DPCache(CalibratedMethod):
    title = "DPCache"

    target_cur: float = setting(60.0, "percent", above=0, at_most=100)

    def check(self, protocol: Protocol) -> None:
        if protocol.steps < FORCED:
            raise UserError(f"DPCache computes the first {FORCED} steps, and there are {protocol.steps}")

    def make(self, task: Task) -> Plan:
        stream = task.record(self.images, ["streams"]).streams[:, 1]
        counts = range(FORCED, task.steps + 1)  # their MACs do not depend on which steps they are
        count = count_at(self.target_cur, task.steps, task.layout, counts, lambda n: self._plan(task, range(n)))
        keys, total = cheapest(segment_costs(stream.flatten(1).numpy()), count)
        return self._plan(task, keys, keys=keys, cost=float(f"{total:.4g}"))

    def _plan(self, task: Task, full: Sequence[int], **notes) -> Plan:
        return forecasts(task, full, lambda at, before: lagrange(before[-2:][::-1], at), SPAN_FORECAST, **notes)


def segment_costs(h: np.ndarray) -> np.ndarray:
    """Costs (T, T, T + 1) of computing i < j < k one after the other, from features (T, n); k = T is the end."""
    steps = len(h)
    out = np.full((steps, steps, steps + 1), np.inf)
    for j in range(1, steps):
        for i in range(j):
            slope = (h[j] - h[i]) / (j - i)
            error = [np.abs(h[s] - h[j] - (s - j) * slope).sum(dtype=np.float64) for s in range(j + 1, steps)]
            out[i, j, j + 1 :] = np.concatenate([[0.0], np.cumsum(error)])
    return out


def cheapest(cost: np.ndarray, count: int) -> tuple[list[int], float]:
    """The `count` steps of the smallest total cost, the first three among them, and that cost."""
    steps = len(cost)
    best = np.full((steps, steps), np.inf)  # of all choices of so many steps that end with (i, j)
    best[1, 2] = 0.0  # the first three have no step between them
    before: list[np.ndarray] = []  # the predecessor of i in each
    for _ in range(count - FORCED):
        through = best[:, :, None] + cost[:, :, :steps]  # (h, i, j)
        before.append(through.argmin(0))
        best = through.min(0)
    total = best + cost[:, :, steps]
    i, j = (int(x) for x in np.unravel_index(total.argmin(), total.shape))
    least, keys = float(total[i, j]), [j, i]
    for choice in reversed(before):
        keys.append(int(choice[keys[-1], keys[-2]]))
    keys = keys[::-1]
    return sorted({0, *keys}), least
