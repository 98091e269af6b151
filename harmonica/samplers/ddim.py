"""Deterministic DDIM (Song et al. 2021) as the official HarmoniCa code runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harmonica.samplers.base import Sampler, Seeds
from harmonica.samplers.schedules import linear_alpha_bar, respaced
from harmonica.utils import UserError

if TYPE_CHECKING:
    from torch import Tensor


class DDIM(Sampler):
    """Timesteps are round(linspace(0, 999, T)); an update goes to the ᾱ of the next *kept* timestep, the last to
    ᾱ = 1.

    diffusers' DDIMScheduler takes t − 1000//T instead, so its images differ. The learned variance is not used.
    """

    def __init__(self, steps: int):
        if not 1 <= steps <= 1000:
            raise UserError(f"steps must be in [1, 1000], the number of training steps, got {steps}")
        self.steps, self.timesteps = steps, respaced(steps)
        bar = linear_alpha_bar()[list(self.timesteps[::-1])]
        previous = np.append(1.0, bar[:-1])
        # x ← a·x + b·ε, from x0 = (x − √(1−ᾱ) ε)/√ᾱ and x' = √ᾱ' x0 + √(1−ᾱ') ε
        a = np.sqrt(previous / bar)
        b = np.sqrt(1 - previous) - a * np.sqrt(1 - bar)
        self._coefficients = [(float(u), float(v)) for u, v in zip(a, b, strict=True)][::-1]

    def alpha_bar(self, s: int) -> float:
        return float(linear_alpha_bar()[self.timesteps[s]])

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        a, b = self._coefficients[s]
        return a * state + b * output[:, : state.shape[1]]
