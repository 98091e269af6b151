"""SmoothCache: A Universal Inference Acceleration Technique for Diffusion Transformers (Liu et al. 2024,
arXiv 2411.10510).

A few uncached trajectories are recorded. The branches of a kind (attention, MLP) are reused k steps after they were
last computed as long as their relative change over those k steps, ‖F(s) − F(s − k)‖₁ / ‖F(s)‖₁, averaged over blocks
and images, is at most α, and k at most 3. α is given, or found for a budget.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, Task, setting
from harmonica.plan import COMPUTE, REUSE, Plan, match_macs


@dataclass(frozen=True, kw_only=True)
class SmoothCache(CalibratedMethod):
    title = "SmoothCache"

    alpha: float | None = setting(None, "α, largest relative change; default: that closest to target_cur", above=0)
    target_cur: float = setting(50.0, "percent", above=0, at_most=100)
    images: int = setting(10, "recorded trajectories", at_least=1, at_most=10_000)
    lookahead: int = setting(3, "steps in a row that may be reused", at_least=1, at_most=100)

    def make(self, task: Task) -> Plan:
        outputs = task.record(self.images).branches  # [step][branch]
        kinds = np.array(task.layout.kinds)
        changes = {
            kind: np.array([
                [
                    np.mean([_change(outputs[s][i], outputs[s - k][i]) for i in np.flatnonzero(kinds == kind)])
                    if k <= s else np.inf
                    for k in range(1, self.lookahead + 1)
                ]
                for s in range(task.steps)
            ])
            for kind in dict.fromkeys(kinds)
        }  # fmt: skip
        if self.alpha is not None:
            return self._plan(task, kinds, changes, self.alpha)
        limits = np.unique(np.concatenate([c[np.isfinite(c)] for c in changes.values()]))
        return match_macs(self.target_cur, (self._plan(task, kinds, changes, a) for a in limits), task.layout)

    def _plan(self, task: Task, kinds: np.ndarray, changes: dict[str, np.ndarray], alpha: float) -> Plan:
        actions = task.actions()
        for kind, change in changes.items():
            last = 0
            for s in range(1, task.steps):
                k = s - last
                reused = k <= self.lookahead and change[s, k - 1] <= alpha
                actions[s, kinds == kind] = REUSE if reused else COMPUTE
                last = last if reused else s
        return task.plan(actions, alpha=float(alpha))


def _change(now, then) -> float:
    return float((now - then).abs().sum() / now.abs().sum())
