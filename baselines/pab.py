"""PAB: pyramid attention broadcast (ICLR 2025, arXiv 2408.12588), for PixArt.

In the middle of the trajectory an attention's output is reused for a range of steps, longer for cross-attention, which
changes least; MLPs are always computed. The paper's ranges for image attention and cross-attention are 2 and 6, here
the second is three times the first, and the first is chosen for the budget. Attention alone cannot save more than its
share of the MACs.
"""

from dataclasses import dataclass

from harmonica.methods import Method, Task, setting
from harmonica.plan import REUSE, Plan, match_macs


@dataclass(frozen=True)
class PAB(Method):
    title = "PAB"
    kinds = ("pixart",)

    attention: int | None = setting(None, "range of self-attention; default: closest to target_cur",
                                    at_least=1, at_most="steps")  # fmt: skip
    target_cur: float = setting(40.0, "percent", above=0, at_most=100)
    first: float = setting(0.1, "share of the steps before the window", at_least=0, at_most=1)
    last: float = setting(0.1, "share of the steps after it", at_least=0, at_most=1)

    def make(self, task: Task) -> Plan:
        if self.attention is not None:
            return self._plan(task, self.attention)
        return match_macs(self.target_cur, (self._plan(task, n) for n in range(1, task.steps + 1)), task.layout)

    def _plan(self, task: Task, attention: int) -> Plan:
        actions = task.actions()
        start, stop = round(self.first * task.steps), round((1 - self.last) * task.steps)
        ranges = {"attention": attention, "cross-attention": 3 * attention}
        for i, kind in enumerate(task.layout.kinds):
            for s in range(max(start, 1), stop):
                if kind in ranges and (s - start) % ranges[kind]:
                    actions[s, i] = REUSE
        return task.plan(actions, ranges=ranges)
