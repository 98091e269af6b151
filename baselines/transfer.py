"""HarmoniCa's plan of another sampler or number of steps, row by row from the closest timestep.

A study of ours, not a method of the paper: how a router works outside its training setting. The first step
computes everything; every other step takes the actions of the source step with the closest timestep (0 … 999).
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import COMPUTE, Plan, Protocol
from harmonica.samplers import make_sampler


@dataclass(frozen=True)
class Transfer(Method):
    title = "HarmoniCa, transferred"
    requires = "harmonica"
    seeded = True

    sampler: str = setting("", "of the source plan; default: this experiment's")
    steps: int = setting(0, "of the source plan; default: this experiment's", at_least=0, at_most=1000)

    def check(self, protocol: Protocol) -> None:
        make_sampler(self.sampler or protocol.sampler, self.steps or protocol.steps)

    def source(self) -> tuple[str, int]:
        return self.sampler, self.steps

    def label(self) -> str:
        given = [str(v) for v in self.source() if v]
        return " ".join([self.title, "from", *given]) if given else self.title

    def make(self, task: Task) -> Plan:
        plan = task.plans[self.requires]
        theirs = np.array(make_sampler(plan.protocol.sampler, plan.steps, task.model.schedule).timesteps)
        actions = np.array([plan.actions[np.abs(theirs - t).argmin()] for t in task.sampler.timesteps])
        actions[0] = COMPUTE
        return task.plan(actions)
