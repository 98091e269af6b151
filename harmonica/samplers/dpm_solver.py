"""DPM-Solver-2 in its data-prediction form (Lu et al. 2022, arXiv 2206.00927 and 2211.01095), used for U-ViT.

Singlestep: an interval of the uniform time grid from 1 to 1/1000 takes two evaluations of the model, one at its
beginning and one in its middle (in log-SNR). Here each evaluation is a step, so a plan has a row for each. Between the
1000 training steps log α is interpolated linearly in time; a U-ViT gets 1000·t. The original Learning-to-Cache code
samples and trained its routers this way (`dpm_solver_pp.py`: order 2, `singlestep`, `time_uniform`). diffusers'
DPMSolverSinglestepScheduler uses other times, and no model evaluation between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harmonica.samplers.base import Sampler, Seeds
from harmonica.samplers.schedules import SCHEDULES, NoiseSchedule
from harmonica.utils import UserError

if TYPE_CHECKING:
    from torch import Tensor


class DPMSolver(Sampler):
    """DPM-Solver-2; `timesteps` are not integers in the middle of an interval."""

    stages, memory = 2, 1  # it stores the latents at the start of the interval

    def __init__(self, steps: int, schedule: NoiseSchedule = SCHEDULES["scaled_linear"]):
        if not 2 <= steps <= 1000 or steps % 2:
            raise UserError(
                f"dpm-solver evaluates the model twice per interval: steps must be even and in [2, 1000], got {steps}"
            )
        self.steps = steps
        grid, log_alpha = np.arange(1, 1001) / 1000, 0.5 * np.log(schedule.alpha_bar)

        def half_log_snr(t: np.ndarray) -> np.ndarray:
            alpha = np.interp(t, grid, log_alpha)
            return alpha - 0.5 * np.log1p(-np.exp(2 * alpha))

        edges = np.linspace(1, 1e-3, steps // 2 + 1)
        lam = half_log_snr(edges)
        middle = (lam[:-1] + lam[1:]) / 2
        log_alpha_middle = -0.5 * np.logaddexp(0, -2 * middle)
        middles = np.interp(log_alpha_middle, log_alpha[::-1], grid[::-1])
        times = np.stack([edges[:-1], middles], 1).ravel()
        # time n/1000 is that of training step n − 1
        self.timesteps: tuple[float, ...] = tuple(float(1000 * t + (schedule.first - 1)) for t in times)
        self._alpha_bar = np.exp(2 * np.interp(times, grid, log_alpha))
        log_alphas = np.interp(np.append(times, edges[-1]), grid, log_alpha)
        self._alpha, self._sigma = np.exp(log_alphas), np.sqrt(-np.expm1(2 * log_alphas))

    def alpha_bar(self, s: int) -> float:
        return float(self._alpha_bar[s])

    def starting_at(self, s: int) -> DPMSolver:
        if s % 2:
            raise UserError(f"a trajectory of dpm-solver cannot begin at step {s}, in the middle of an interval")
        return self

    def step(self, s: int, output: Tensor, state: Tensor, seeds: Seeds | None = None) -> Tensor:
        """In its "dpm_solver" form with the midpoint at r = 1/2, the order-2 update is the first-order one over the
        full interval with the midpoint's data prediction."""
        import torch

        current, beginning = state.chunk(2, 1)
        noise = output[:, : current.shape[1]]
        data = (current - float(self._sigma[s]) * noise) / float(self._alpha[s])
        start = s - s % 2
        origin = beginning if s % 2 else current
        ratio = self._sigma[s + 1] / self._sigma[start]
        # e^(−h) = σ'α / (σα'), so that −α'·(e^(−h) − 1) = α' − α·σ'/σ
        weight = self._alpha[s + 1] - self._alpha[start] * ratio
        return torch.cat([float(ratio) * origin + float(weight) * data, origin], 1)
