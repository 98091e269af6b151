"""ProCache: a mask of computed steps with intervals that do not grow (AAAI 2026, arXiv 2512.17298).

A few lists of intervals between computed steps are drawn at random, each sorted so that they never grow towards the
end, and the best is kept; at all other steps every branch is reused. The paper judges a list by the FID of 1000 images,
here it is the distance of the final latents of a few images to the uncached ones, which needs no features. Its second
part, recomputing some tokens of the last blocks, is not built.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, Task, setting
from harmonica.plan import COMPUTE, REUSE, Plan, Protocol, count_at
from harmonica.training import Work


@dataclass(frozen=True, kw_only=True)
class ProCache(CalibratedMethod):
    title = "ProCache mask"

    target_cur: float = setting(60.0, "percent", above=0, at_most=100)
    lists: int = setting(5, "lists that are judged", at_least=1, at_most=10_000)
    most: int = setting(4, "reuses in a row; more if the budget needs them", at_least=1, at_most="steps")
    images: int = setting(8, "that judge a list", at_least=1, at_most=1024)

    def work(self, protocol: Protocol, scale: str) -> Work:
        steps = protocol.steps * (1 - self.target_cur / 100)
        return Work(evaluations=self.lists * self.images * max(1.0, steps), batch=self.images)

    def make(self, task: Task) -> Plan:
        counts = range(1, task.steps + 1)
        count = count_at(self.target_cur, task.steps, task.layout, counts, lambda n: self._plan(task, range(n)))
        loop = task.closed_loop(task.protocol, self.images)
        rng = np.random.default_rng(task.seed)
        drawn = [intervals(task.steps, count, self.most + 1, rng) for _ in range(self.lists)]
        judged = []
        for own in dict.fromkeys(drawn):
            plan = self._plan(task, np.cumsum((0, *own[:-1])), intervals=list(own))
            judged.append((loop.value(plan), plan))
        dB, best = max(judged, key=lambda x: x[0])
        return best.with_origin(notes=best.origin.notes | {"dB": round(dB, 2)})

    def _plan(self, task: Task, keys, **notes) -> Plan:
        actions = task.actions() + np.uint8(REUSE)
        actions[np.array(keys)] = COMPUTE
        return task.plan(actions, **notes)


def intervals(steps: int, count: int, most: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`count` random intervals of at most `most` steps (or as few as fit) that sum up to `steps` and never grow."""
    most = max(most, -(-steps // count))
    own = np.ones(count, int)
    for _ in range(steps - count):
        own[rng.choice(np.flatnonzero(own < most))] += 1
    return tuple(sorted(map(int, own), reverse=True))
