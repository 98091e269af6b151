"""The base of methods whose skips are decided at run time, by a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harmonica.methods.base import Task
from harmonica.methods.calibrated import CalibratedMethod
from harmonica.plan import SPAN_DELTA, Plan, Protocol
from harmonica.plan.rule import Rule
from harmonica.training import TRIALS, Work
from harmonica.utils import setting


@dataclass(frozen=True, kw_only=True)
class RuledMethod(CalibratedMethod):
    """A threshold is given, or found so that a few images have the budget's MACs. Budgets are met on average: what an
    image skips is its own affair."""

    threshold: float | None = setting(None, "of the rule; default: that closest to target_cur", at_least=0)
    target_cur: float = setting(50.0, "percent", above=0, at_most=100)
    warm_up: int = setting(2, "steps computed at first", at_least=1, at_most="steps")

    largest = 4.0  # threshold that is tried

    def work(self, protocol: Protocol, scale: str) -> Work:
        trials = 0 if self.threshold is not None else TRIALS
        return Work(evaluations=(1 + trials) * self.images * protocol.steps, batch=self.images)

    @abstractmethod
    def rules(self, task: Task) -> Callable[[float], tuple[Rule, dict[str, Any]]]:
        """What makes the rule of a threshold, with notes for the plan's origin; here it may calibrate."""

    def span(self, task: Task) -> tuple[int, int]:
        """First branch that is skipped, and the one after the last; by default all."""
        return 0, len(task.layout.branches)

    def make(self, task: Task) -> Plan:
        from harmonica.training.thresholds import at_budget

        rule_of = self.rules(task)

        def plan(threshold: float) -> Plan:
            rule, notes = rule_of(threshold)
            return task.plan(actions, rule=rule, threshold=threshold, **notes)

        actions = task.actions()
        first, stop = self.span(task)
        actions[self.warm_up :, first:stop] = SPAN_DELTA
        if self.threshold is not None:
            return plan(self.threshold)
        return at_budget(task, plan, self.target_cur, self.images, self.largest)
