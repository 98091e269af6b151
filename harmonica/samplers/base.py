"""The interface of a sampler. A step is one evaluation of the model.

What a multistep sampler stores between steps is kept with the latents as extra channels: the *state* of a
trajectory is (n, C·(1 + memory), H, W), so that any number of trajectories can run in one batch.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Seeds = Callable[[int], list[int]]  # of step s, one per image; a sampler that adds no noise does not call it


class Sampler(typing.Protocol):
    """A sampler for a given number of steps; defaults are those of a deterministic single-step sampler."""

    steps: int
    timesteps: tuple[float, ...]  # in execution order, input of the model
    stochastic: bool = False  # whether it adds noise
    stages: int = 1  # evaluations of the model per interval; a trajectory can begin at multiples of it
    memory: int = 0  # tensors stored besides the latents

    def alpha_bar(self, s: int) -> float:
        """ᾱ at step `s`, of the noise schedule of training."""
        ...

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        """The state of step s+1 from that of step `s`, (n, C·(1 + memory), H, W), and the model's output (n, ≥C, H, W).

        `seeds(s)` gives one seed per image for the noise of a stochastic sampler; repeated copies of the
        batch get the same noise.
        """
        ...

    def starting_at(self, s: int) -> Sampler:
        """This sampler for a trajectory that begins at step `s` with empty memory. Raises UserError
        inside an interval of several stages."""
        return self

    def begin(self, latents: Tensor) -> Tensor:
        """The state (n, C·(1 + memory), H, W) of a trajectory that begins with latents (n, C, H, W)."""
        import torch

        return torch.cat([latents] + [torch.zeros_like(latents)] * self.memory, 1) if self.memory else latents

    def latents(self, state: Tensor) -> Tensor:
        """The latents (n, C, H, W) of a state, without the sampler's memory."""
        return state[:, : state.shape[1] // (1 + self.memory)]
