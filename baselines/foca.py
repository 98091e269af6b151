"""FoCa: Forecast then Calibrate, feature caching as an ordinary differential equation (AAAI 2026, arXiv 2508.16211).

TaylorSeer's schedule. k steps after the last full output A, with A's backward difference A′ (to the full output before
it, a step) and the difference d of the last two values of the history, which may be predictions, an output is A + k/2 ·
(A′ + d), Heun's rule; the prediction then enters the history. Every prediction is a weighted sum of full outputs. A
plan holds four of them; each older one weighs about half of the next. The history therefore begins at the fourth, and
between that and the third it is a line.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import ScheduledForecast
from harmonica.plan.plan import MOST_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class FoCa(ScheduledForecast):
    title = "FoCa"

    def weigh(self, at, full):
        return history(at, full[-MOST_WEIGHTS:])[at][::-1]


def history(at: int, full: list[int]) -> dict[int, np.ndarray]:
    """Weights (len(full),) of the full outputs, in order, in the values of the steps full[0] … at."""
    own = np.eye(len(full))
    values: dict[int, np.ndarray] = {}
    for s in range(full[0], at + 1):
        newest = max(i for i, k in enumerate(full) if k <= s)
        if full[newest] == s or len(full) == 1:
            values[s] = own[newest]
            continue
        before = max(newest, 1)
        slope = (own[before] - own[before - 1]) / (full[before] - full[before - 1])
        k = s - full[newest]
        values[s] = own[newest] + (k * slope if newest == 0 else k / 2 * (slope + values[s - 1] - values[s - 2]))
    return values
