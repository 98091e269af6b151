"""SpeCa: speculative feature caching (ACM MM 2025), a forecast that is verified.

The first three steps are computed. Then the stream is forecast by TaylorSeer's series; after `least` forecasts in a row
the last block is run on the forecast, and what it adds is compared with its own forecast. If the relative error is
above threshold · decay^progress (and above `floor`), the next step is computed, as it is after `most` forecasts. The
public code takes one error for a whole batch; here every sequence has its own. Its forecasts are of every branch, here
of the stream before the last block, and their order is at most 3.
"""

from dataclasses import dataclass

from harmonica.methods import RuledMethod, setting
from harmonica.plan import Rule


@dataclass(frozen=True, kw_only=True)
class SpeCa(RuledMethod):
    title = "SpeCa"
    kinds = ("dit", "pixart")  # the last block of a U-ViT joins a stream that was skipped

    order: int = setting(2, "of the Taylor series", at_least=0, at_most=3)
    least: int = setting(3, "forecasts in a row before one is verified", at_least=1, at_most="steps")
    most: int = setting(8, "forecasts in a row", at_least=1, at_most="steps")
    decay: float = setting(0.05, "of the threshold, from the first step to the last", above=0, at_most=1)
    floor: float = setting(0.01, "the smallest threshold", at_least=0)
    warm_up: int = setting(3, "steps computed at first", at_least=1, at_most="steps")

    def span(self, task):
        return 0, task.layout.blocks[-1][0]

    def rules(self, task):
        own = {"least": float(self.least), "decay": self.decay, "floor": self.floor}
        return lambda threshold: (Rule("verified", threshold, self.most, self.order, parameters=own), {})
