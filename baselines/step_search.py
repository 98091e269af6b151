"""Key steps found by search, everything between them forecast (training/step_search.py).

Related: DPCache (arXiv 2602.22654) and BudCache (2606.13496) search step masks, too; the forecasts are those of
TaylorSeer (2503.06923), and of its "lite" form on the last block. Here a set of key steps is judged by the final
latents of whole trajectories under the very plan that comes out.

With `solver` and `grid` the plan runs another sampler with more steps, few of them computed: a fine grid of a good
solver. Its budget stays that of the experiment's steps.
"""

from dataclasses import dataclass

from harmonica.methods import Method, Reads, Task
from harmonica.plan import Plan, Protocol
from harmonica.training.step_search import FORECASTS, SearchSettings, searched


@dataclass(frozen=True, kw_only=True)
class StepSearch(SearchSettings, Method):
    title = "Step search"
    heading = FORECASTS
    seeded = True

    def label(self) -> str:
        return ", ".join(filter(None, [self.title, self.only_form, self.fine_grid]))

    def reads(self, protocol: Protocol) -> Reads:
        return Reads(weights=True)

    def make(self, task: Task) -> Plan:
        return searched(task, self)[0]
