"""TeaCache: timestep embedding aware cache (CVPR 2025, arXiv 2411.19108).

The relative L1 change of the first branch's input, modulated by the timestep, from one step to the next is put through
a polynomial that estimates the change of the model's output. While the sum of these estimates since the last computed
step is below a threshold, a step adds the last residual of all branches to its own input. The polynomial is fitted to a
few recorded trajectories; R² of the fit is in the plan's notes.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import RuledMethod, Task, setting
from harmonica.plan import Rule


@dataclass(frozen=True, kw_only=True)
class TeaCache(RuledMethod):
    title = "TeaCache"

    degree: int = setting(4, "of the polynomial", at_least=1, at_most=8)
    warm_up: int = setting(1, "steps computed at first", at_least=1, at_most="steps")

    def rules(self, task: Task):
        recorded = task.record(self.images, ["inputs", "streams"])
        x, y = (changes(t.numpy()) for t in (recorded.inputs, recorded.streams[:, 1]))
        polynomial = np.polyfit(x, y, self.degree)
        rest = ((y - np.polyval(polynomial, x)) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        notes = {"r2": round(1 - float(rest), 3)}
        return lambda threshold: (Rule("input", threshold, coefficients=tuple(polynomial)), notes)


def changes(features: np.ndarray) -> np.ndarray:
    """Relative L1 changes (steps − 1) · n from step to step of features (steps, n, …)."""
    axes = tuple(range(2, features.ndim))
    return (np.abs(np.diff(features, axis=0)).mean(axes) / np.abs(features[:-1]).mean(axes)).ravel()
