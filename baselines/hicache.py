"""HiCache: training-free acceleration of diffusion models via Hermite polynomial-based feature caching
(arXiv 2508.16984).

TaylorSeer's schedule and differences Dᵢ, but k steps after a full one the series is Σᵢ σⁱ Hᵢ(σk)/i! · Dᵢ, with the
physicists' Hermite polynomials H₀ = 1, H₁(x) = 2x, H₂(x) = 4x² − 2. σ shrinks the terms of high order, and with σ = ½
the first is half of Taylor's.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.polynomial.hermite import hermval

from harmonica.methods import ScheduledForecast, setting
from harmonica.plan.forecast import derivatives


@dataclass(frozen=True, kw_only=True)
class HiCache(ScheduledForecast):
    title = "HiCache"

    order: int = setting(2, "of the polynomial", at_least=0, at_most=3)
    sigma: float = setting(0.5, "σ, the scale of the polynomials", above=0, at_most=10)

    @property
    def outputs(self) -> int:
        return self.order + 1

    def weigh(self, at, full):
        differences, k = derivatives(full[::-1], self.order), at - full[-1]
        polynomials = [hermval(self.sigma * k, np.eye(i + 1)[i]) for i in range(len(differences))]
        return np.array([self.sigma**i * h / factorial(i) for i, h in enumerate(polynomials)]) @ differences
