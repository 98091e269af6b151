"""Judging and fitting plans by the final latents of whole trajectories under them.

A forecast that is best for a branch, or for one step, is not best for the image: errors add up along a trajectory, and
the model corrects some of them (the paper's argument for step-wise denoising training and the image-error proxy).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from harmonica.execution import Guided, Planned, denoise
from harmonica.execution.denoise import under_policy
from harmonica.plan import COMPUTE, FORECASTS, Plan, Protocol, all_compute
from harmonica.samplers import make_sampler
from harmonica.training.starts import random_starts
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
    (`against` "uncached"), or the converged solution of the same noise ("converged").

    Raises UserError if a stochastic sampler is to be compared with the converged solution.
    """

    def __init__(self, task, protocol: Protocol, images: int, against: str = "uncached"):
        self.protocol, self.backbone = protocol, task.backbone
        g = torch.Generator().manual_seed(task.seed)
        (self.start,) = random_starts(task, images, images, g)
        self.labels = self.start.model.labels
        if against == "converged":
            if make_sampler(protocol.sampler, protocol.steps).stochastic:
                raise UserError(f"{protocol.sampler} adds noise at every step: there is no converged solution to meet")
            sampler, steps = CONVERGED
            protocol = Protocol(protocol.model, sampler, steps, protocol.cfg)
        self.evaluations = 0.0  # of the model, in full evaluations of one image
        self.target = self.latents(all_compute(protocol, len(task.layout.branches)))

    @torch.inference_mode()
    def latents(self, plan: Plan) -> Tensor:
        """The final latents (n, C, H, W) under a plan, also of another sampler."""
        return self._run(plan, slice(None))

    def value(self, plan: Plan) -> float:
        """Mean PSNR of the images' final latents, in dB; larger is better. Minus infinity if they are not finite."""
        db = float(decibels(self.latents(plan), self.target).mean())
        return db if np.isfinite(db) else -np.inf

    def _run(self, plan: Plan, rows: slice, weights: Tensor | None = None) -> Tensor:
        model = Guided.by(plan.protocol, self.backbone, self.labels[rows])
        sampler = make_sampler(plan.protocol.sampler, plan.steps, self.backbone.schedule)
        recomputed = weights is not None and self.backbone.device.type != "cpu"
        branches: Any = _Recomputed(self.backbone) if recomputed else self.backbone
        policy = Planned(branches, plan, weights=weights)
        output = under_policy(model, sampler, policy)
        noise = self.start.noise[rows]
        self.evaluations += float((plan.actions == COMPUTE).mean(axis=1).sum()) * len(noise)
        return denoise(sampler, sampler.begin(noise), output, seeds=self.start.seeds)

    def fit(self, plan: Plan, outputs: int, rounds: int, batch: int, rate: float, name: str) -> Plan:
        """The plan with weights fitted to the target by gradients through whole trajectories, Adam on batches of the
        images; every forecast takes up to `outputs` outputs. They begin at the plan's own weights.

        Raises UserError for a loss that is not finite."""
        if plan.weights is None:
            return plan
        wide, free = _widened(plan, outputs)
        device = self.backbone.device
        weights = torch.tensor(wide, device=device, requires_grad=True)
        mask = torch.tensor(free, device=device)
        taking = replace(plan, weights=free)  # it takes every free output, also those whose weight is 0 at first
        optimiser = torch.optim.Adam([weights], lr=rate)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / rounds)
        with tqdm(total=rounds, desc=f"{name}: weights", mininterval=5) as bar:
            for rows in self._batches(batch, rounds):
                with torch.enable_grad():
                    latents = self._run(taking, rows, weights * mask)
                    loss = -decibels(latents, self.target[rows].clone()).mean()
                    if not torch.isfinite(loss):
                        raise UserError(f"{name}: the loss is not finite: the rate is too high")
                    (weights.grad,) = torch.autograd.grad(loss, [weights])
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                decay.step()
                bar.set_postfix(dB=f"{-loss.item():.2f}", refresh=False)
                bar.update()
        return replace(plan, weights=(weights.detach() * mask).cpu().numpy())

    def _batches(self, batch: int, rounds: int) -> Iterator[slice]:
        count = max(1, len(self.start.noise) // batch)
        for k in range(rounds):
            first = k % count * batch
            yield slice(first, first + batch)


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
