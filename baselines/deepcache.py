"""DeepCache: Accelerating Diffusion Models for Free (Ma et al. 2024, arXiv 2312.00858).

DeepCache recomputes the layers outside a skip level and reuses the deep feature that enters it. The outer k blocks on
each side run at every step; between full steps the output of the inner span is reused. Every N-th step is full
("uniform"), or they are denser at the beginning ("quadratic": the distinct integer parts of the squares, in general
p-th powers, of evenly spaced numbers up to the p-th root of T).

On a U-ViT the last k blocks get the output of the first k through the long skips, as in DeepCache. A DiT has none:
the stored output replaces the stream, so the output of the front blocks is lost at those steps.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import SPAN_OUTPUT, Plan, match_macs


@dataclass(frozen=True)
class DeepCache(Method):
    title = "DeepCache"

    interval: int | None = setting(
        None, "N, every how many steps the inner span runs, on average if quadratic", at_least=1, at_most="steps"
    )
    outer: int | None = setting(None, "k, blocks on each side that always run", at_least=1, at_most="half the blocks")
    target_cur: float = setting(25.0, "percent; sets what is not given, N from 2 to 4", above=0, at_most=100)
    schedule: Literal["uniform", "quadratic"] = setting("uniform", "spacing of the full steps")
    power: float = setting(2.0, "p of the quadratic schedule", at_least=1)

    def label(self) -> str:
        return self.title if self.schedule == "uniform" else f"{self.title}, {self.schedule}"

    def full_steps(self, steps: int, interval: int) -> np.ndarray:
        """Indices of the steps at which everything runs."""
        if self.schedule == "uniform":
            return np.arange(0, steps, interval)
        roots = np.linspace(0, steps ** (1 / self.power), -(-steps // interval) + 1)
        return np.unique((roots[:-1] ** self.power).astype(int))

    def make(self, task: Task) -> Plan:
        spans = task.layout.blocks
        most = (len(spans) - 1) // 2

        def plan(interval: int, outer: int) -> Plan:
            actions = task.actions()
            between = np.setdiff1d(np.arange(task.steps), self.full_steps(task.steps, interval))
            actions[between, spans[outer][0] : spans[-outer - 1][1]] = SPAN_OUTPUT
            return task.plan(actions, interval=interval, outer=outer)

        intervals = range(2, 5) if self.interval is None else [self.interval]
        outers = range(1, most + 1) if self.outer is None else [self.outer]
        return match_macs(self.target_cur, (plan(n, k) for n in intervals for k in outers), task.layout)
