"""Noise schedules of training, which belong to the model, and the choice of kept training steps (of 1000)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.utils import UserError, read_json, unknown

# settings of a scheduler that say what a model was trained for, and those that samplers here are for
TRAINED_FOR = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "trained_betas": None}


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


def read_scheduler(path: Path) -> dict[str, Any]:
    """The configuration of a diffusers scheduler. Raises UserError if it is damaged, or of a model that was trained for
    anything but noise under a β schedule: samplers would take its outputs for what they are not."""
    found = read_json(path, "a scheduler's configuration", finite=False)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a scheduler's configuration")
    wrong = {k: found[k] for k, own in TRAINED_FOR.items() if found.get(k, own) != own}
    if wrong:
        listed = ", ".join(f"{k} {v}" for k, v in wrong.items())
        raise UserError(f"{path} has {listed}: only models that predict noise under a schedule of β are sampled")
    return found


def respaced(steps: int) -> tuple[int, ...]:
    """The training steps that the DiT code keeps, round(linspace(0, 999, T)), noisiest first."""
    return tuple(int(t) for t in np.round(np.linspace(0, 999, steps))[::-1])
