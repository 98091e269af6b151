"""ECAD: evolutionary caching (ICLR 2026, arXiv 2506.15682).

A genome has one bit for every step and branch: computed or reused. NSGA-II (pymoo) looks for the front of MACs against
quality, with crossover at four points and flipped bits, from schedules of FORA, of T-GATE (cross-attention reused in
the second half) and random ones. The paper's quality is ImageReward over 550 generations of 72, tens of millions of
images; here it is the distance of a few images' final latents to the uncached ones, over few generations. The plan is
the best one judged within the budget.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, Task, setting
from harmonica.plan import COMPUTE, REUSE, Plan, Protocol, macs, macs_at
from harmonica.training import Work

OVER = 1.02  # a plan may have so many times the budget's MACs


@dataclass(frozen=True, kw_only=True)
class ECAD(CalibratedMethod):
    title = "ECAD"

    target_cur: float = setting(50.0, "percent", above=0, at_most=100)
    population: int = setting(24, "genomes in a generation", at_least=4, at_most=10_000)
    generations: int = setting(15, "of genomes", at_least=1, at_most=100_000)
    images: int = setting(4, "that judge a genome", at_least=1, at_most=1024)

    def work(self, protocol: Protocol, scale: str) -> Work:
        judged = self.population * self.generations
        return Work(evaluations=judged * self.images * protocol.steps * (1 - self.target_cur / 100), batch=self.images)

    def make(self, task: Task) -> Plan:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import ElementwiseProblem
        from pymoo.operators.crossover.pntx import PointCrossover
        from pymoo.operators.mutation.bitflip import BitflipMutation
        from pymoo.optimize import minimize
        from tqdm import tqdm

        loop = task.closed_loop(task.protocol, self.images)
        budget = macs_at(self.target_cur, task.steps, task.layout)
        seeds = np.array(self._seeds(task, np.random.default_rng(task.seed)))
        judged: dict[bytes, tuple[float, float, Plan]] = {}  # MACs and dB by genome
        bar = tqdm(total=self.population * self.generations, desc="ECAD", unit="plan", mininterval=5)

        def judge(genome: np.ndarray) -> tuple[float, float]:
            key = np.packbits(genome).tobytes()
            if key not in judged:
                plan = self._plan(task, genome)
                judged[key] = (macs(plan, task.layout), loop.value(plan), plan)
            bar.update()
            return judged[key][:2]

        class Front(ElementwiseProblem):
            def _evaluate(self, x, out, *args, **kwargs):
                cost, dB = judge(x)
                out["F"] = [cost / budget, -max(dB, -100.0)]

        minimize(
            Front(n_var=seeds.shape[1], n_obj=2, xl=0, xu=1, vtype=bool),
            NSGA2(self.population, sampling=seeds, crossover=PointCrossover(4), mutation=BitflipMutation()),
            ("n_gen", self.generations), seed=task.seed,
        )  # fmt: skip
        bar.close()
        within = [x for x in judged.values() if x[0] <= OVER * budget] or [min(judged.values(), key=lambda x: x[0])]
        _, dB, best = max(within, key=lambda x: x[1])
        return best.with_origin(notes={"dB": round(dB, 2), "judged": len(judged)})

    def _seeds(self, task: Task, rng: np.random.Generator) -> list[np.ndarray]:
        """Genomes bool (steps − 1) · branches to begin with, as many as a generation has."""
        steps, branches = task.steps - 1, len(task.layout.branches)
        every = np.arange(1, task.steps)
        fora = [np.repeat(every % n != 0, branches).reshape(steps, branches) for n in range(2, 9)]
        cross = np.array([kind == "cross-attention" for kind in task.layout.kinds])
        gated = [x | ((every >= task.steps // 2)[:, None] & cross) for x in fora] if cross.any() else []
        share = 1 - (1 - self.target_cur / 100) * task.steps / max(steps, 1)
        found = [x.ravel() for x in (*fora, *gated)][: self.population]
        while len(found) < self.population:
            found.append(rng.random(steps * branches) < max(share, 0))
        return found

    def _plan(self, task: Task, genome: np.ndarray) -> Plan:
        actions = task.actions()
        actions[1:] = np.where(genome.reshape(task.steps - 1, -1), REUSE, COMPUTE)
        return task.plan(actions)
