"""Running a plan: guided model, sampler, seeds and policy are combined here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.execution.denoise import Callback, Output, denoise, under_policy
from harmonica.execution.guidance import Guided
from harmonica.execution.policy import Planned, Policy
from harmonica.execution.rules import Ruled
from harmonica.execution.seeds import StepSeeds, noise_and_labels
from harmonica.plan import Plan
from harmonica.samplers import Sampler, Seeds, make_sampler
from harmonica.samplers.prior_noise import PriorNoise
from harmonica.utils import UserError

Decode = Callable[[Tensor], Tensor]  # latents (n, 4, h, w), unit variance, to images (n, C, H, W) in [-1, 1]


@dataclass(frozen=True)
class Batch:
    """The starting point of a batch: noise (n, C, H, W), labels (n,), and seeds of a stochastic sampler."""

    noise: Tensor
    labels: Tensor
    seeds: Seeds | None = None

    @staticmethod
    def of(backbone: Backbone, seed: int, first: int, count: int) -> Batch:
        """Images first … first+count−1 of a seed: labels are random classes, or captions in the order of their list."""
        about = backbone.conditioning
        noise, labels = noise_and_labels(seed, first, count, backbone.latent_shape, about.count, about.in_order)
        return Batch(noise.to(backbone.device), labels, StepSeeds(seed, first, count))


def policy_of(backbone: Backbone, plan: Plan) -> Policy:
    """What does as the plan says: a rule decides at run time, all else is fixed."""
    return Ruled(backbone, plan) if plan.rule else Planned(backbone, plan)


class Run:
    """A plan on a backbone for fixed labels (n,), called with noise; `policy` defaults to the plan's."""

    def __init__(self, backbone: Backbone, plan: Plan, labels: Tensor, policy: Policy | None = None):
        self.protocol = plan.protocol
        self.model = Guided.by(plan.protocol, backbone, labels)
        self.sampler = make_sampler(plan.protocol.sampler, plan.protocol.steps, backbone.schedule)
        self.policy = policy or policy_of(backbone, plan)

    @torch.inference_mode()
    def __call__(self, noise: Tensor, seeds: Seeds | None = None, callback: Callback | None = None) -> Tensor:
        """Latents (n, C, H, W) from noise (n, C, H, W); `callback(s, latents)` is called after every step.

        Raises UserError if the measured cache utilisation is not the planned one.
        """
        return self.trajectory(noise, seeds, callback)

    def trajectory(self, noise: Tensor, seeds: Seeds | None = None, callback: Callback | None = None) -> Tensor:
        """The same, with gradients where these are enabled."""
        sampler, share = self.sampler, self.protocol.prior_noise
        if share:
            sampler = PriorNoise(sampler, share, noise)
        latents = denoise(sampler, sampler.begin(noise), self.output(sampler), seeds=seeds, callback=callback)
        self.policy.finish()
        return latents

    def output(self, sampler: Sampler) -> Output:
        """The guided model at a step."""
        return under_policy(self.model, sampler, self.policy)


def run(
    backbone: Backbone,
    plan: Plan,
    batch: Batch,
    policy: Policy | None = None,
    decode: Decode | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Latents (n, C, H, W) of a batch under a plan, see `Run`; with `decode`, images uint8 (n, H, W, C) on the CPU.

    Raises UserError, with the step, if latents are not finite, or if decoded images are not.
    """
    latents = Run(backbone, plan, batch.labels, policy)(batch.noise, batch.seeds, callback)
    if not torch.isfinite(latents).all():
        raise _not_finite(backbone, plan, batch)
    if decode is None:
        return latents
    with torch.inference_mode():
        decoded = decode(latents)
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"decoded images of {plan.protocol.model} are not finite: its autoencoder or precision is wrong"
            )
        return to_pixels(decoded).cpu()


def _not_finite(backbone: Backbone, plan: Plan, batch: Batch) -> UserError:
    """The error for latents that are not finite: run again, to name the step."""
    bad: list[int] = []

    def look(s: int, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            bad.append(s)

    Run(backbone, plan, batch.labels)(batch.noise, batch.seeds, look)
    where = f"from step {bad[0]} of {plan.steps} on" if bad else f"after {plan.steps} steps"
    name = f"the plan of {plan.origin.method} for {plan.protocol.model}"
    return UserError(f"latents under {name} are not finite {where}: weights, precision or guidance scale are wrong")


def to_pixels(decoded: Tensor) -> Tensor:
    """Decoder output (n, C, H, W) in [-1, 1] -> uint8 (n, H, W, C), clamp(127.5 x + 128) as in DiT's protocol."""
    return (127.5 * decoded + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
