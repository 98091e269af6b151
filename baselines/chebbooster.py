"""ChebBooster: training-free DiT inference via Chebyshev-inspired extrapolation (arXiv 2608.23429).

The first s₀ and the last s₁ steps are computed, and every r-th between them. Elsewhere a branch is the barycentric
interpolant (equation 9) of its last H outputs, with the weights of Chebyshev's nodes, ±1 and half of it at both ends,
at steps that are mapped linearly to [−1, 1]. Those steps are not Chebyshev's nodes, so the interpolant is rational for
H > 2, and flatter than the polynomial through the same outputs. Beyond its nodes it may have a pole where they are
unevenly spaced; near one a forecast takes one output fewer.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import ScheduledForecast, setting

LEAST = 0.02  # of the denominator, in that of all terms' magnitudes: nearer to a pole weights are of more than 50


@dataclass(frozen=True, kw_only=True)
class ChebBooster(ScheduledForecast):
    title = "ChebBooster"

    history: int = setting(3, "H, outputs that a forecast takes", at_least=1, at_most=4)
    first: int = setting(1, "s₀, steps computed at first", at_least=1, at_most="steps")
    last: int = setting(0, "s₁, steps computed at last", at_least=0, at_most="steps")

    @property
    def outputs(self) -> int:
        return self.history

    def full(self, steps, interval):
        ends = {*range(self.first), *range(steps - self.last, steps)}
        return sorted(ends | set(range(self.first, steps, interval)))

    def weigh(self, at, full):
        nodes = np.array(full[-self.history :][::-1], np.float64)
        while len(nodes) > 1:
            rho = (-1.0) ** np.arange(len(nodes))
            rho[[0, -1]] /= 2
            terms = rho / (at - nodes)  # the map to [−1, 1] scales numerator and denominator alike
            if abs(terms.sum()) > LEAST * np.abs(terms).sum():
                return terms / terms.sum()
            nodes = nodes[:-1]
        return [1.0]
