"""Judging and fitting plans by the final latents of whole trajectories under them.

A forecast that is best for a branch, or for one step, is not best for the image: errors add up along a trajectory, and
the model corrects some of them (the paper's argument for step-wise denoising training and the image-error proxy).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from harmonica.execution import Planned, Policy, Run
from harmonica.plan import COMPUTE, FORECASTS, Plan, Protocol, all_compute
from harmonica.samplers import make_sampler
from harmonica.training.prefixes import BYTES, Prefixes
from harmonica.training.starts import Start, random_starts
from harmonica.training.views import View
from harmonica.utils import UserError

CONVERGED = ("dpmsolver++", 150)  # sampler and evaluations of the converged solution
FLOOR = 1e-12  # of a mean squared error, of equal latents


def decibels(x: Tensor, target: Tensor) -> Tensor:
    """PSNR (n,) of latents (n, C, H, W) to others, in dB, for a range of 2: that of pixels in [-1, 1]."""
    error = (x - target).square().flatten(1).mean(1) / 4
    return -10 * error.clamp_min(FLOOR).log10()


class ClosedLoop:
    """A few random images, and what their latents are to be: those of the uncached model under `protocol`
    (`against` "uncached"), or the converged solution of the same noise ("converged"). They run in parts of at most
    `batch` images.

    Raises UserError if a stochastic sampler is to be compared with the converged solution, or latents are not finite.
    """

    def __init__(self, task, protocol: Protocol, images: int, against: str = "uncached", batch: int | None = None):
        self.backbone = task.backbone
        self.starts = random_starts(task, images, batch or images, torch.Generator().manual_seed(task.seed))
        if against == "converged":
            if make_sampler(protocol.sampler, protocol.steps).stochastic:
                raise UserError(f"{protocol.sampler} adds noise at every step: there is no converged solution to meet")
            sampler, steps = CONVERGED
            protocol = Protocol(protocol.model, sampler, steps, protocol.cfg)
        full = all_compute(protocol, len(task.layout.branches))
        self.targets = [self._run(full, start)(start.noise, start.seeds) for start in self.starts]
        if not all(torch.isfinite(x).all() for x in self.targets):
            raise UserError(
                f"{task.name}: latents of the uncached model are not finite: its weights or precision are wrong"
            )
        self.prefixes = [Prefixes(self.backbone, start, BYTES / len(self.starts)) for start in self.starts]

    def value(self, plan: Plan) -> float:
        """Mean PSNR of the images' final latents, in dB; larger is better. Minus infinity if they are not finite."""
        found = [decibels(p.latents(plan), target) for p, target in zip(self.prefixes, self.targets, strict=True)]
        db = float(torch.cat(found).mean())
        return db if np.isfinite(db) else -np.inf

    def _run(self, plan: Plan, start: Start, policy: Policy | None = None) -> Run:
        return Run(self.backbone, plan, start.model.labels, policy)

    def fit(self, plan: Plan, outputs: int, rounds: int, rate: float, name: str) -> Plan:
        """The plan with weights fitted to the target by gradients through whole trajectories, Adam on one part of the
        images after the other; every forecast takes up to `outputs` outputs. They begin at the plan's own weights.

        Raises UserError for a loss that is not finite."""
        if plan.weights is None:
            return plan
        wide, free = _widened(plan, outputs)
        weights = torch.tensor(wide, device=self.backbone.device, requires_grad=True)
        mask = torch.tensor(free, device=self.backbone.device)
        taking = replace(plan, weights=free)  # it takes every free output, also those whose weight is 0 at first
        branches: Any = self.backbone if self.backbone.device.type == "cpu" else _Recomputed(self.backbone)
        optimiser = torch.optim.Adam([weights], lr=rate)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / rounds)
        parts = itertools.cycle(zip(self.starts, self.targets, strict=True))
        bar = tqdm(itertools.islice(parts, rounds), f"{name}: weights", rounds, mininterval=5)
        for start, target in bar:
            policy = Planned(branches, taking, weights=weights * mask)
            latents = self._run(taking, start, policy).trajectory(start.noise, start.seeds)
            loss = -decibels(latents, target.clone()).mean()
            if not torch.isfinite(loss):
                raise UserError(f"{name}: the loss is not finite: the rate is too high")
            (weights.grad,) = torch.autograd.grad(loss, [weights])
            optimiser.step()
            decay.step()
            bar.set_postfix(dB=f"{-loss.item():.2f}", refresh=False)
        return replace(plan, weights=(weights.detach() * mask).cpu().numpy())


class _Recomputed(View):
    """Branches are computed again for their gradients instead of keeping activations: the graph of a whole trajectory
    would not fit into a GPU."""

    def delta(self, i: int, x: Tensor, ctx: Any) -> Tensor:
        return checkpoint(self._backbone.delta, i, x, ctx, use_reentrant=False)


def _widened(plan: Plan, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (steps, 1 or branches, outputs) that begin with the plan's, and which of them exist: forecasts of a step
    have at most as many outputs as were computed before it."""
    assert plan.weights is not None
    forecast = np.isin(plan.actions, FORECASTS)
    full = np.asarray(plan.actions == COMPUTE).all(axis=1)
    whole: np.ndarray = np.cumsum(full) - full  # full steps before each
    columns = plan.weights.shape[1]
    used = forecast.any(1, keepdims=True) if columns == 1 else forecast
    there = np.arange(outputs) < np.maximum(whole, 1).reshape(-1, 1, 1)
    wide = np.zeros((plan.steps, columns, outputs), np.float32)
    kept = min(outputs, plan.weights.shape[2])
    wide[:, :, :kept] = plan.weights[:, :, :kept]
    return wide, np.asarray(used)[:, :, None] & there
