"""MagCache: magnitude-aware cache (NeurIPS 2025, arXiv 2506.09045).

The ratio of a step is the mean, over tokens and a few recorded trajectories, of the norm of the model's residual (the
stream after all branches − before) to its norm at the step before. A skipped step adds the last residual to its own
input; its error is |1 − the product of the ratios since the last computed step|. Steps are skipped while the errors
since then sum up to at most a threshold, and at most K in a row; the first steps are kept. Ratios are those of the
model, not of an image, so that the plan is fixed.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, Task, setting
from harmonica.plan import SPAN_DELTA, Plan, match_macs


@dataclass(frozen=True, kw_only=True)
class MagCache(CalibratedMethod):
    title = "MagCache"

    threshold: float | None = setting(None, "of the sum of errors; default: that closest to target_cur", above=0)
    target_cur: float = setting(50.0, "percent", above=0, at_most=100)
    most: int = setting(3, "K, skipped steps in a row", at_least=1, at_most="steps")
    retention: float = setting(0.2, "share of the steps kept at first", at_least=0, at_most=1)

    def make(self, task: Task) -> Plan:
        streams = task.record(self.images, ["streams"]).streams
        norms = (streams[:, 1] - streams[:, 0]).norm(dim=-1).flatten(1)
        ratios = np.concatenate([[1.0], (norms[1:] / norms[:-1]).mean(1).numpy()])
        if self.threshold is not None:
            return self._plan(task, ratios, self.threshold)
        plans = (self._plan(task, ratios, x) for x in np.geomspace(1e-4, 30, 400))
        return match_macs(self.target_cur, plans, task.layout)

    def _plan(self, task: Task, ratios: np.ndarray, threshold: float) -> Plan:
        kept = max(1, int(self.retention * task.steps + 0.5))
        actions = task.actions()
        actions[skipped(ratios, threshold, self.most, kept)] = SPAN_DELTA
        return task.plan(actions, threshold=float(threshold), ratios=[round(float(r), 5) for r in ratios])


def skipped(ratios: np.ndarray, threshold: float, most: int, kept: int) -> list[int]:
    """The skipped steps for ratios (steps,), of which the first `kept` are computed."""
    out, product, error, run = [], 1.0, 0.0, 0
    for s in range(kept, len(ratios)):
        product, run = product * ratios[s], run + 1
        error += abs(1 - product)
        if error <= threshold and run <= most:
            out.append(s)
        else:
            product, error, run = 1.0, 0.0, 0
    return out
