"""Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference (Li et al. 2024,
arXiv 2312.09608).

The encoder (in-blocks and the middle block, before the first out-block) runs at key steps only; at the steps that
follow, the out-blocks run on its last output and its long skips. Key steps are the published list for 50 steps, or
every N-th. Once t/1000 < 0.5, a share of the starting noise is added after each step ("prior noise injection").

In a U-Net every decoder block gets the time. In a U-ViT time is a token that passes through the encoder: here this
token (and the label's) is this step's plus its cached change, or all decoders between key steps would be equal. The
authors' U-ViT code is not public. Decoders between two key steps do not depend on each other, and the sampling loop
runs them as one batch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harmonica.methods import Method, Task, setting
from harmonica.plan import SPAN_TIMED, Plan, Protocol, match_macs
from harmonica.utils import UserError

KEYS_50 = (0, 1, 2, 3, 5, 10, 15, 25, 35)


@dataclass(frozen=True)
class FasterDiffusion(Method):
    title = "Faster Diffusion"
    kinds = ("uvit",)  # it needs an encoder and a decoder

    keys: Literal["uniform", "published"] = setting("uniform", "key steps; the published list is for 50 steps")
    interval: int | None = setting(None, "N, every how many steps the encoder runs", at_least=1, at_most="steps")
    prior_noise: float = setting(
        0.003, "share of the starting noise added in the second half of the training's time", at_least=0, below=1
    )
    target_cur: float = setting(25.0, "percent; decides the interval if it is not given", above=0, at_most=100)

    def check(self, protocol: Protocol) -> None:
        if self.keys == "published" and protocol.steps != 50:
            raise UserError(f"faster_diffusion: the published key steps are for 50 steps, got {protocol.steps}")

    def make(self, task: Task) -> Plan:
        layout, steps = task.layout, task.steps
        decoder = min(target for _, target in layout.skips)

        def plan(keys) -> Plan:
            actions = task.actions()
            actions[np.setdiff1d(np.arange(steps), keys), :decoder] = SPAN_TIMED
            return task.plan(actions, self.prior_noise, keys=[int(k) for k in keys])

        if self.keys == "published":
            return plan(KEYS_50)
        if self.interval is not None:
            return plan(range(0, steps, self.interval))
        return match_macs(self.target_cur, (plan(range(0, steps, n)) for n in range(2, max(3, steps))), layout)
