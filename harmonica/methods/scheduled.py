"""The base of methods that compute all branches at the steps of a schedule and forecast them at all others, by weights
that follow from the numbers of those steps alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harmonica.methods.base import Method, Task
from harmonica.plan import COMPUTE, FORECAST, SPAN_FORECAST, Plan, match_macs
from harmonica.plan.plan import MOST_WEIGHTS
from harmonica.utils import setting

Weights = Sequence[float] | np.ndarray
Weigh = Callable[[int, list[int]], Weights]  # see `ScheduledForecast.weigh`


@dataclass(frozen=True, kw_only=True)
class ScheduledForecast(Method):
    """Every N-th step is computed; `lite` forecasts the last block's output only."""

    interval: int | None = setting(None, "N; default: the interval closest to target_cur", at_least=1, at_most="steps")
    target_cur: float = setting(60.0, "percent", above=0, at_most=100)
    lite: bool = setting(False, "forecast the last block's output only")

    def label(self) -> str:
        return self.title + ("-lite" if self.lite else "")

    def full(self, steps: int, interval: int) -> list[int]:
        """The computed steps, in order. By default TaylorSeer's: the first two, then every N-th."""
        return [s for s in range(steps) if s < 2 or (s - 1) % interval == 0]

    @abstractmethod
    def weigh(self, at: int, full: list[int]) -> Weights:
        """Weights of the last outputs at step `at`, the newest first, at most 4; `full` are all steps computed before
        it, in order."""

    def make(self, task: Task) -> Plan:
        return self.scheduled(task, lambda full: self.weigh)

    def scheduled(self, task: Task, weigh_of: Callable[[list[int]], Weigh]) -> Plan:
        """The plan at the interval that is set, or closest to the budget; `weigh_of` computed steps gives weights."""
        if self.interval is not None:
            return self._plan(task, self.interval, weigh_of)
        intervals = range(1, max(2, task.steps))
        found = match_macs(self.target_cur, (self._plan(task, n) for n in intervals), task.layout)
        return self._plan(task, found.origin.notes["interval"], weigh_of)

    def _plan(self, task: Task, interval: int, weigh_of: Callable[[list[int]], Weigh] | None = None) -> Plan:
        full = self.full(task.steps, interval)
        weigh = weigh_of(full) if weigh_of else self._like
        return forecasts(task, full, weigh, SPAN_FORECAST if self.lite else FORECAST, interval=interval)

    def _like(self, at: int, full: list[int]) -> Weights:
        """Weights of as many outputs as a forecast takes, which is what its cost depends on."""
        return [1.0] * min(len(full), self.outputs)

    @property
    def outputs(self) -> int:
        """How many outputs a forecast takes, at most."""
        return MOST_WEIGHTS


def forecasts(task: Task, full: Sequence[int], weigh: Weigh, action: int, **notes) -> Plan:
    """The plan that computes all branches at the steps `full`; all others are `action`, with weights from `weigh`;
    `notes` go into its origin."""
    actions = task.actions() + np.uint8(action)
    actions[list(full)] = COMPUTE
    weights = np.zeros((task.steps, 1, MOST_WEIGHTS))
    for s in sorted(set(range(task.steps)) - set(full)):
        own = weigh(s, [k for k in full if k < s])
        weights[s, 0, : len(own)] = own
    used = max(1, int(np.max(np.nonzero(weights.any((0, 1)))[0], initial=0)) + 1)
    return task.plan(actions, weights=weights[:, :, :used], **notes)
