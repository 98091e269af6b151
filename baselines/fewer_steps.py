"""The plain sampler with fewer steps: the baseline that every cache has to beat at equal cost."""

from dataclasses import dataclass
from typing import ClassVar

from harmonica.methods import Method, Task, setting
from harmonica.plan import Plan
from harmonica.utils import UserError


@dataclass(frozen=True)
class FewerSteps(Method):
    title = "Fewer steps"
    plain = True
    solver: ClassVar[str | None] = None  # the experiment's sampler

    steps: int | None = setting(None, "steps to run; default: the number that matches target_cur's cost")
    target_cur: float = setting(25.0, "percent of the steps to leave out if `steps` is not given")

    def make(self, task: Task) -> Plan:
        steps = self.steps
        if steps is None:
            steps = max(1, round(task.steps * (1 - self.target_cur / 100)))
        if not 1 <= steps <= task.steps:
            raise UserError(
                f"{task.origin.method}: steps must be in [1, {task.steps}], the steps it reduces, got {steps}"
            )
        return task.plan(task.actions()[:steps], sampler=self.solver)
