"""Deterministic DDIM (Song et al. 2021) as the official HarmoniCa code runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harmonica.samplers.base import Sampler, Seeds
from harmonica.samplers.schedules import SCHEDULES, NoiseSchedule, respaced
from harmonica.utils import UserError

if TYPE_CHECKING:
    from torch import Tensor


class DDIM(Sampler):
    """Training steps are round(linspace(0, 999, T)); an update goes to the ᾱ of the next *kept* one, the last to ᾱ = 1.

    diffusers' DDIMScheduler takes t − 1000//T instead, so its images differ. The learned variance is not used.
    """

    def __init__(self, steps: int, schedule: NoiseSchedule = SCHEDULES["linear"]):
        if not 1 <= steps <= 1000:
            raise UserError(f"steps must be in [1, 1000], the number of training steps, got {steps}")
        kept = respaced(steps)
        self.steps, self.timesteps = steps, tuple(t + schedule.first for t in kept)
        bar = schedule.alpha_bar[list(kept[::-1])]
        self._alpha_bar = bar[::-1]
        previous = np.append(1.0, bar[:-1])
        # x ← a·x + b·ε, from x0 = (x − √(1−ᾱ) ε)/√ᾱ and x' = √ᾱ' x0 + √(1−ᾱ') ε
        a = np.sqrt(previous / bar)
        b = np.sqrt(1 - previous) - a * np.sqrt(1 - bar)
        self._coefficients = [(float(u), float(v)) for u, v in zip(a, b, strict=True)][::-1]

    def alpha_bar(self, s: int) -> float:
        return float(self._alpha_bar[s])

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        a, b = self._coefficients[s]
        return a * state + b * output[:, : state.shape[1]]
