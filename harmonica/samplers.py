"""Samplers under one small interface; their import needs no torch.

`timesteps` are in execution order; `begin(x)` gives the latents room for what a multistep sampler remembers, as further
channels; `step(s, output, x, seeds)` goes from step s to s+1; `starting_at(s)` is the sampler for a trajectory that
begins there, which it can wherever s is a multiple of `stages`. A stochastic sampler calls `seeds(s)` for a seed an
image. A step is one evaluation of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from harmonica.dpm_solver import DPMSolver
from harmonica.errors import UserError, unknown
from harmonica.schedulers import IDDPM, DPMSolverPP, SASolver, linear_alpha_bar, respaced

if TYPE_CHECKING:
    from torch import Tensor


class DDIM:
    """Deterministic DDIM as the official HarmoniCa code runs it: kept steps round(linspace(0, 999, T)).

    The update goes to the ᾱ of the previous *kept* step and ends on ᾱ = 1. diffusers' DDIMScheduler takes t − 1000//T
    instead, so its images differ. The learned variance is not used.
    """

    stochastic, stages = False, 1

    def __init__(self, steps: int):
        if not 1 <= steps <= 1000:
            raise UserError(f"a sampler needs at least 1 step and at most the 1000 of the training, not {steps}")
        self.timesteps = respaced(steps)
        bar = linear_alpha_bar()[list(self.timesteps[::-1])]
        previous = np.append(1.0, bar[:-1])
        self.steps = steps
        # x ← a·x + b·ε, from x0 = (x − √(1−ᾱ) ε)/√ᾱ and x' = √ᾱ' x0 + √(1−ᾱ') ε
        a = np.sqrt(previous / bar)
        b = np.sqrt(1 - previous) - a * np.sqrt(1 - bar)
        self._coefficients = [(float(u), float(v)) for u, v in zip(a, b, strict=True)][::-1]

    def alpha_bar(self, s: int) -> float:
        """ᾱ at step `s`, of the training's noise schedule."""
        return float(linear_alpha_bar()[self.timesteps[s]])

    def starting_at(self, s: int) -> DDIM:
        return self

    def begin(self, x: Tensor) -> Tensor:
        return x

    def step(self, s: int, output: Tensor, x: Tensor, seeds: Callable[[int], list[int]] | None = None) -> Tensor:
        """Latents of step s+1 from those of step `s`, x (n, C, H, W), and the model's output (n, ≥C, H, W)."""
        a, b = self._coefficients[s]
        return a * x + b * output[:, : x.shape[1]]


SAMPLERS = {"ddim": DDIM, "dpmsolver++": DPMSolverPP, "iddpm": IDDPM, "sa-solver": SASolver, "dpm-solver": DPMSolver}


def make_sampler(name: str, steps: int):
    """The sampler of that name. Raises UserError for an unknown name or steps < 1."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name](steps)
