"""diffusers' schedulers as samplers.

A scheduler object stores the last outputs, the last noise and a step count, so one object cannot serve the many
trajectories that router training runs in parallel. Here all of that is restored from the state before each step and
read back after it, and the noise of image k at step s has its own seed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonica.samplers.base import Sampler, Seeds
from harmonica.samplers.schedules import SCHEDULES, NoiseSchedule, respaced
from harmonica.utils import UserError

if TYPE_CHECKING:
    from torch import Tensor


class DiffusersSampler(Sampler):
    """A diffusers scheduler whose memory is read from the state."""

    kind: str  # diffusers' class
    options: dict[str, Any] = {}  # its configuration, besides the noise schedule

    def __init__(self, steps: int, schedule: NoiseSchedule = SCHEDULES["linear"], first: int = 0):
        if not 1 <= steps <= 999:
            raise UserError(f"steps must be in [1, 999], fewer than the training steps, got {steps}")
        self.steps, self.schedule, self.first = steps, schedule, first
        self.training_steps = self.kept(steps)
        self.timesteps = tuple(t + schedule.first for t in self.training_steps)

    def kept(self, steps: int) -> tuple[int, ...]:
        """Kept training steps, noisiest first: diffusers' linspace spacing, without 0."""
        return tuple(int(t) for t in np.linspace(0, 999, steps + 1).round()[::-1][:-1])

    @cached_property
    def scheduler(self) -> Any:
        import diffusers

        scheduler = getattr(diffusers, self.kind)(**self.schedule.diffusers, **self.options)
        self.set_timesteps(scheduler)
        return scheduler

    def set_timesteps(self, scheduler: Any) -> None:
        scheduler.set_timesteps(self.steps)

    def alpha_bar(self, s: int) -> float:
        return float(self.schedule.alpha_bar[self.training_steps[s]])

    def starting_at(self, s: int) -> DiffusersSampler:
        return type(self)(self.steps, self.schedule, s)

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        import torch

        current, *kept = state.chunk(1 + self.memory, 1)
        scheduler = self.scheduler
        scheduler._step_index = s
        done = s - self.first  # steps taken before
        self.restore(scheduler, s, done, kept)
        noise = {}
        if self.stochastic:
            assert seeds is not None, f"{self.kind} adds noise: it needs seeds"
            own = seeds(s)
            noise["generator"] = [torch.Generator().manual_seed(k) for k in own * (len(state) // len(own))]
        used = self.output(scheduler, output, current.shape[1])
        moved = scheduler.step(used, self.training_steps[s], current, **noise).prev_sample
        return torch.cat([moved, *self.remembered(scheduler)], 1)

    def output(self, scheduler: Any, output: Tensor, channels: int) -> Tensor:
        """The part of the model's output the scheduler uses."""
        return output[:, :channels]

    def restore(self, scheduler: Any, s: int, done: int, kept: list[Tensor]) -> None:
        """Put the tensors `kept` from the last step (`done` were taken) back into the scheduler."""

    def remembered(self, scheduler: Any) -> list[Tensor]:
        """The `memory` tensors (n, C, H, W) to keep after a step."""
        return []


class IDDPM(DiffusersSampler):
    """Ancestral sampling (Nichol & Dhariwal 2021) on the respaced steps of the DiT code, with the learned variance, or
    with the posterior's if the model predicts noise only."""

    kind, options = "DDPMScheduler", {"variance_type": "learned_range", "clip_sample": False}
    stochastic = True

    def kept(self, steps: int) -> tuple[int, ...]:
        return respaced(steps)

    def set_timesteps(self, scheduler: Any) -> None:
        scheduler.set_timesteps(timesteps=list(self.training_steps))

    def output(self, scheduler: Any, output: Tensor, channels: int) -> Tensor:
        scheduler.variance_type = "learned_range" if output.shape[1] >= 2 * channels else "fixed_small"
        scheduler.register_to_config(variance_type=scheduler.variance_type)
        return output[:, : 2 * channels]


class DPMSolverPP(DiffusersSampler):
    """DPM-Solver++ 2M (Lu et al. 2022), midpoint form; the first and the last step are of first order."""

    kind = "DPMSolverMultistepScheduler"
    memory = 1  # the previous step's data prediction

    def restore(self, scheduler, s, done, kept) -> None:
        scheduler.lower_order_nums = min(done, 2)
        scheduler.model_outputs = [None, kept[0]]

    def remembered(self, scheduler) -> list[Tensor]:
        return scheduler.model_outputs[-1:]


class SASolver(DiffusersSampler):
    """SA-Solver (Xue et al. 2023): stochastic Adams, predictor and corrector of order 2, τ = 1 for 200 ≤ t ≤ 800."""

    kind = "SASolverScheduler"
    memory = 3  # the previous step's data prediction, corrected latents and noise
    stochastic = True

    def restore(self, scheduler, s, done, kept) -> None:
        prediction, latents, noise = kept
        scheduler.lower_order_nums = min(done, 2)
        scheduler.model_outputs = [None, prediction]
        scheduler.timestep_list = [None, self.training_steps[s - 1] if done else None]
        scheduler.last_sample, scheduler.last_noise = (latents, noise) if done else (None, None)
        scheduler.this_corrector_order = 2

    def remembered(self, scheduler) -> list[Tensor]:
        return [scheduler.model_outputs[-1], scheduler.last_sample, scheduler.last_noise]
