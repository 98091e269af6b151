"""Δ-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers (Chen et al. 2024, arXiv 2406.01125).

At a full step Δ = out − in of a span of N_c consecutive blocks is stored; at the steps between, the span is not run and
x += Δ. In the first b steps (outlines) the span is the rear blocks, afterwards (details) the front blocks. The authors'
choices for DiT are not public: N and N_c are those nearest to target_cur, b is half of the steps.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError
from harmonica.nearest import nearest
from harmonica.plan import SPAN_DELTA, Plan

TITLE = "Δ-DiT"


@dataclass(frozen=True)
class Settings:
    interval: int | None = None  # N, every how many steps all blocks run
    blocks: int | None = None  # N_c, how many blocks are left out between
    boundary: int | None = None  # b, the step from which the front blocks are left out; default: half of the steps
    target_cur: float = 25.0  # percent; decides what is not given, with N of 2 to 4


def make(task, settings: Settings) -> Plan:
    spans = task.shape.blocks
    boundary = task.steps // 2 if settings.boundary is None else settings.boundary
    for what, value, low, high in (("interval", settings.interval, 1, None), ("blocks", settings.blocks, 1, len(spans)),
                                   ("boundary", boundary, 0, task.steps)):  # fmt: skip
        if value is not None and not (low <= value and (high is None or value <= high)):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"delta_dit: {what} is {limits}, not {value}")

    def plan(interval: int, blocks: int) -> Plan:
        actions = np.zeros((task.steps, len(task.shape.branches)), np.uint8)
        for s in range(task.steps):
            if s % interval and s < boundary:
                actions[s, spans[-blocks][0] :] = SPAN_DELTA
            elif s % interval:
                actions[s, : spans[blocks - 1][1]] = SPAN_DELTA
        return Plan(actions, task.origin(notes={"interval": interval, "blocks": blocks, "boundary": boundary}))

    intervals = range(2, 5) if settings.interval is None else [settings.interval]
    counts = range(1, len(spans)) if settings.blocks is None else [settings.blocks]
    return nearest(settings.target_cur, (plan(n, c) for n in intervals for c in counts), task.shape)
