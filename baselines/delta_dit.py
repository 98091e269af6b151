"""Δ-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers (Chen et al. 2024, arXiv 2406.01125).

At a full step Δ = out − in of a span of N_c consecutive blocks is stored; at the steps between, the span is not run and
x += Δ. In the first b steps (outlines) the span is the rear blocks, afterwards (details) the front blocks. The authors'
choices for DiT are not public: N and N_c are the closest to target_cur, b is half the steps.
"""

from dataclasses import dataclass

from harmonica.methods import Method, Task, setting
from harmonica.plan import SPAN_DELTA, Plan, match_macs


@dataclass(frozen=True)
class DeltaDiT(Method):
    title = "Δ-DiT"

    interval: int | None = setting(None, "N, every how many steps all blocks run", at_least=1, at_most="steps")
    blocks: int | None = setting(None, "N_c, how many blocks are skipped in between", at_least=1, at_most="blocks")
    boundary: int | None = setting(
        None, "b, the step from which the front blocks are skipped; default: half of them", at_least=0, at_most="steps"
    )
    target_cur: float = setting(25.0, "percent; sets what is not given, N from 2 to 4", above=0, at_most=100)

    def make(self, task: Task) -> Plan:
        spans = task.layout.blocks
        boundary = task.steps // 2 if self.boundary is None else self.boundary

        def plan(interval: int, blocks: int) -> Plan:
            actions = task.actions()
            for s in range(task.steps):
                if s % interval and s < boundary:
                    actions[s, spans[-blocks][0] :] = SPAN_DELTA
                elif s % interval:
                    actions[s, : spans[blocks - 1][1]] = SPAN_DELTA
            return task.plan(actions, interval=interval, blocks=blocks, boundary=boundary)

        intervals = range(2, 5) if self.interval is None else [self.interval]
        counts = range(1, len(spans)) if self.blocks is None else [self.blocks]
        return match_macs(self.target_cur, (plan(n, c) for n in intervals for c in counts), task.layout)
