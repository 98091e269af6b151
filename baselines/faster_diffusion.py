"""Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference (Li et al. 2024,
arXiv 2312.09608).

The encoder (in-blocks and the middle block, in front of the first out-block) runs at key steps only; at the steps that
follow, the out-blocks run on its last output and its long skips. Key steps are the published list for 50 steps, or
every N-th. Once t/1000 < 0.5, a share of the starting noise is added after each step ("prior noise injection").

A U-Net tells every decoder block the time. A U-ViT has time as a token, which comes through the encoder: here that
token (and the label's) goes on from this step's, or the decoders would compute the same between key steps. Its authors
did not publish their U-ViT code. The decoders between two key steps need nothing that comes between, and the sampling
loop runs them as one batch.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harmonica.errors import UserError
from harmonica.nearest import nearest
from harmonica.plan import SPAN_TIMED, Plan

TITLE = "Faster Diffusion"
KINDS = ("uvit",)  # it needs an encoder and a decoder
KEYS_50 = (0, 1, 2, 3, 5, 10, 15, 25, 35)


@dataclass(frozen=True)
class Settings:
    keys: Literal["uniform", "published"] = "uniform"  # the published list is for 50 steps
    interval: int | None = None  # N, every how many steps the encoder runs
    prior_noise: float = 0.003  # share of the starting noise that is added in the second half of the training's time
    target_cur: float = 25.0  # percent; decides the interval when it is not given


def make(task, settings: Settings) -> Plan:
    shape, steps = task.shape, task.steps
    if settings.keys == "published" and steps != 50:
        raise UserError(f"faster_diffusion: the published key steps are for 50 steps, not for {steps}")
    if settings.interval is not None and settings.interval < 1:
        raise UserError(f"faster_diffusion: the interval is at least 1, not {settings.interval}")
    if not 0 <= settings.prior_noise < 1:
        raise UserError(f"faster_diffusion: prior_noise lies in [0, 1), not at {settings.prior_noise:g}")
    decoder = min(target for _, target in shape.skips)

    def plan(keys) -> Plan:
        actions = np.zeros((steps, len(shape.branches)), np.uint8)
        actions[np.setdiff1d(np.arange(steps), keys), :decoder] = SPAN_TIMED
        return Plan(
            actions, replace(task.origin(notes={"keys": [int(k) for k in keys]}), prior_noise=settings.prior_noise)
        )

    if settings.keys == "published":
        return plan(KEYS_50)
    if settings.interval is not None:
        return plan(range(0, steps, settings.interval))
    return nearest(settings.target_cur, (plan(range(0, steps, n)) for n in range(2, max(3, steps))), shape)
