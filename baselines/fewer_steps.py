"""The plain sampler with fewer steps: the baseline that every cache has to beat at equal cost."""

from dataclasses import dataclass
from typing import ClassVar

from harmonica.methods import Method, Task, setting
from harmonica.plan import Plan, Protocol
from harmonica.samplers import make_sampler


@dataclass(frozen=True)
class FewerSteps(Method):
    title = "Fewer steps"
    plain = True
    solver: ClassVar[str | None] = None  # the experiment's sampler

    steps: int | None = setting(
        None, "steps to run; default: the number that matches target_cur's cost", at_least=1, at_most="steps"
    )
    target_cur: float = setting(
        25.0, "CUR in percent of the cache whose MACs to match if `steps` is not given", at_least=0, below=100
    )

    def plan_sampler(self, protocol: Protocol) -> str:
        return self.solver or protocol.sampler

    def check(self, protocol: Protocol) -> None:
        super().check(protocol)
        if self.steps is not None:
            make_sampler(self.plan_sampler(protocol), self.steps)

    def make(self, task: Task) -> Plan:
        steps = self.steps
        if steps is None:
            unit = task.sampler.stages if self.solver is None else 1  # evaluations per interval
            reusable = task.layout.branch_macs.sum() / task.layout.macs  # the rest a cache pays at every step
            steps = max(1, round(task.steps * (1 - self.target_cur / 100 * reusable) / unit)) * unit
        return task.plan(task.actions()[:steps], sampler=self.solver)
