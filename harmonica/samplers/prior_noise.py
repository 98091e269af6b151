"""Prior noise injection of Faster Diffusion (Li et al. 2024), around any sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harmonica.samplers.base import Sampler, Seeds

if TYPE_CHECKING:
    from torch import Tensor


class PriorNoise(Sampler):
    """Adds `share` of the starting noise (n, C, H, W) after each step from a timestep below 500; with several stages,
    after the last."""

    def __init__(self, sampler: Sampler, share: float, noise: Tensor):
        self.sampler, self.share, self.noise = sampler, share, noise
        self.steps, self.timesteps, self.memory = sampler.steps, sampler.timesteps, sampler.memory
        self.stages, self.stochastic = sampler.stages, sampler.stochastic

    def alpha_bar(self, s: int) -> float:
        return self.sampler.alpha_bar(s)

    def starting_at(self, s: int) -> Sampler:
        return PriorNoise(self.sampler.starting_at(s), self.share, self.noise)

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        first = s + 1 - self.stages  # this interval's first evaluation
        state = self.sampler.step(s, output, state, seeds)
        if (s + 1) % self.stages == 0 and self.timesteps[first] < 500:
            self.latents(state).add_(self.share * self.noise)
        return state
