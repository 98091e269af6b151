"""Classifier-free guidance (Ho & Salimans 2022), both halves in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.execution.policy import StepPolicy
from harmonica.plan import Protocol


@dataclass
class Guided:
    """A backbone under guidance of scale `cfg`, for fixed labels (n,): classes or caption indices.

    The conditional half comes first. Guidance acts on the first `channels` latent channels; the others come from the
    conditional half. Scale 1 runs no second half. Work that depends only on the labels is done here, once.
    """

    backbone: Backbone
    labels: Tensor
    cfg: float
    channels: int
    condition: Any = None  # of both halves; from the labels if it is not given

    def __post_init__(self):
        if self.condition is not None:
            return
        both = self.labels
        if self.cfg != 1.0:
            both = torch.cat([self.labels, torch.full_like(self.labels, self.backbone.conditioning.null)])
        self.condition = self.backbone.condition(both)

    @staticmethod
    def by(protocol: Protocol, backbone: Backbone, labels: Tensor) -> Guided:
        """The guided model of a protocol, for labels (n,) on any device."""
        labels = labels.to(backbone.device)
        return Guided(backbone, labels, protocol.cfg, backbone.guided_channels(protocol.sampler))

    @property
    def halves(self) -> int:
        return 1 if self.cfg == 1.0 else 2

    def with_backbone(self, backbone: Backbone) -> Guided:
        """A copy with another backbone, for example of higher precision."""
        return Guided(backbone, self.labels, self.cfg, self.channels)

    def repeated(self, times: int) -> Guided:
        """A copy for `times` repetitions of the batch in a row; the condition is copied, not computed again."""
        if times == 1:
            return self
        rows = torch.arange(self.halves * len(self.labels), device=self.backbone.device)
        rows = rows.view(self.halves, -1).repeat(1, times).flatten()
        condition = self.backbone.select(self.condition, rows)
        return Guided(self.backbone, self.labels.repeat(times), self.cfg, self.channels, condition)

    def both(self, latents: Tensor, t: Tensor | float, step: StepPolicy) -> Tensor:
        """Outputs of both halves (2n, C_out, H, W) for latents (n, C, H, W) at timestep `t`; (n, …) at a scale of 1.

        Guided channels are equal in both halves, the others stay separate, as in the official code.
        """
        out = self._unguided(latents, t, step)
        if self.halves == 1:
            return out
        guided = self._guided(out)
        return torch.cat([torch.cat([guided, guided]), out[:, self.channels :]], 1)

    def __call__(self, latents: Tensor, t: Tensor | float, step: StepPolicy) -> Tensor:
        """Output (n, C_out, H, W) for latents (n, C, H, W) at timestep `t`."""
        out = self._unguided(latents, t, step)
        if self.halves == 1:
            return out
        return torch.cat([self._guided(out), out[: len(latents), self.channels :]], 1)

    def _unguided(self, latents: Tensor, t: Tensor | float, step: StepPolicy) -> Tensor:
        both = latents if self.halves == 1 else torch.cat([latents, latents])
        return step.evaluate(self.backbone, both, t, self.condition)

    def _guided(self, out: Tensor) -> Tensor:
        cond, null = out[:, : self.channels].chunk(2)
        return torch.lerp(null, cond, self.cfg)

    def together(self, latents: Tensor, times: list[float], step: StepPolicy) -> list[Tensor]:
        """Outputs (n, C_out, H, W) at several timesteps in one batch, with a policy for all of them."""
        many = self.repeated(len(times))
        t = torch.tensor(times, device=latents.device).repeat_interleave(len(latents)).repeat(self.halves)
        return list(many(latents.repeat(len(times), 1, 1, 1), t, step).chunk(len(times)))
