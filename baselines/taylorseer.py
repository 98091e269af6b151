"""TaylorSeer: From Reusing to Forecasting (Liu et al., ICCV 2025, arXiv 2503.06923).

All branches are computed at the first two steps, and then at every N-th. There, factors are updated from the newest
output F: D₀ = F, Dᵢ₊₁ = (Dᵢ − Dᵢ at the last full step) / steps since then. k steps after it an output is forecast as
Σᵢ kⁱ/i! · Dᵢ, up to order O. Its "lite" form forecasts the last block's output only. Dᵢ is a weighted sum of the last
i + 1 outputs, so a plan holds at most order 3.
"""

from dataclasses import dataclass

from harmonica.methods import ScheduledForecast, setting
from harmonica.plan.forecast import taylor


@dataclass(frozen=True, kw_only=True)
class TaylorSeer(ScheduledForecast):
    title = "TaylorSeer"

    order: int = setting(3, "O, the highest derivative", at_least=0, at_most=3)

    @property
    def outputs(self) -> int:
        return self.order + 1

    def weigh(self, at, full):
        return taylor(at, full[::-1], self.order)
