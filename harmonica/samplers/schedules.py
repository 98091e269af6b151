"""Noise schedules of training, which belong to the model, and the choice of kept training steps (of 1000)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harmonica.utils import unknown


@dataclass(frozen=True)
class NoiseSchedule:
    """β over 1000 training steps, with diffusers' parameters."""

    beta_start: float
    beta_end: float
    beta_schedule: str  # "linear" in β, or "scaled_linear" in √β
    first: int = 0  # what the model gets as timestep at the least noisy training step

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """ᾱ, float64 (1000,)."""
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, 1000)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, 1000) ** 2
        return np.cumprod(1 - betas)

    @property
    def diffusers(self) -> dict[str, Any]:
        """The configuration of a diffusers scheduler."""
        return {"num_train_timesteps": 1000, "beta_start": self.beta_start, "beta_end": self.beta_end,
                "beta_schedule": self.beta_schedule}  # fmt: skip


SCHEDULES = {
    "linear": NoiseSchedule(1e-4, 0.02, "linear"),  # ADM, DiT, PixArt
    "scaled_linear": NoiseSchedule(0.00085, 0.012, "scaled_linear", first=1),  # Stable Diffusion, U-ViT
}


def get_schedule(name: str) -> NoiseSchedule:
    """The noise schedule of that name. Raises UserError for an unknown one."""
    if name not in SCHEDULES:
        raise unknown("noise schedule", name, SCHEDULES)
    return SCHEDULES[name]


def respaced(steps: int) -> tuple[int, ...]:
    """The training steps that the DiT code keeps, round(linspace(0, 999, T)), noisiest first."""
    return tuple(int(t) for t in np.round(np.linspace(0, 999, steps))[::-1])
