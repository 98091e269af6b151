"""HarmoniCa's two ideas with a forecaster in place of the stale feature.

The paper trains a router on the trajectories of inference (SDT) and judges a step by the error of the final image
(IEPO), because what is best for a step is not best for the image. Here the same holds for forecasts: their weights are
trained by gradients through whole trajectories under the plan, on the error of the final latents. Key steps come from a
search that is judged in the same way (training/step_search.py), which the plan of `step_search` saves if a table has it
with the same settings or it is passed. A budget in MACs takes the place of β.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from baselines.step_search import StepSearch
from harmonica.methods import Task, setting
from harmonica.plan import Plan, Protocol
from harmonica.training import Work
from harmonica.training.step_search import NOTED, found_before, searched


@dataclass(frozen=True, kw_only=True)
class HarmoniCaForecast(StepSearch):
    title = "HarmoniCa-Forecast"
    continues = "step_search"
    gradients = True

    outputs: int = setting(3, "computed outputs that a forecast takes", at_least=1, at_most=4)
    candidates: int = setting(
        6, "sets of key steps whose weights are trained a little; the best is trained on", at_least=1, at_most=NOTED
    )
    rounds: int = setting(100, "updates of the weights", at_least=1, at_most=100_000)
    fit_images: int = setting(64, "whose trajectories the weights are trained on", at_least=1, at_most=100_000)
    batch: int = setting(8, "images per update", at_least=1, at_most=1024)
    rate: float = setting(0.02, "learning rate of Adam, falling to 0", above=0)

    def source(self) -> tuple[str, int]:
        return self.solver or "", self.grid or 0

    def work(self, protocol: Protocol, scale: str) -> Work:
        keys = self.key_steps(protocol)
        updates = self.rounds * (1 + self.candidates / 5) * keys
        evaluated = self.fit_images * ((self.candidates + 1) * keys + protocol.steps)
        searched = super().work(protocol, scale)
        return replace(
            searched,
            updates=updates * self.batch,
            evaluations=searched.evaluations + evaluated,
            batch=self.batch,
            graph_steps=round(keys),
        )

    def make(self, task: Task) -> Plan:
        source = task.plans.get(self.continues)
        count = self.candidates
        plans = found_before(task, self, source, count) if source else searched(task, self, count)
        loop = task.closed_loop(plans[0].protocol, self.fit_images, self.against, self.batch)
        fit = partial(loop.fit, outputs=self.outputs)
        few = partial(fit, rounds=max(1, self.rounds // 5), rate=self.rate)
        tried = [*plans, *(few(p, name=f"{task.name}, {k}") for k, p in enumerate(plans))]
        values = [loop.value(p) for p in tried]
        k = int(np.argmax(values))
        # a step that is right at 30 dB undoes what is at 50 dB already, where errors are a tenth as large
        rate = self.rate if k >= len(plans) else self.rate / 10
        plan = fit(tried[k], rounds=self.rounds, rate=rate, name=task.name)
        value, best = max([(values[k], tried[k]), (loop.value(plan), plan)], key=lambda x: x[0])
        notes = {k: v for k, v in best.origin.notes.items() if k != "following"}
        notes |= {"dB_searched": best.origin.notes["dB"], "dB": round(value, 2)}
        return best.with_origin(notes=notes, cost=source.origin.cost if source else {})
