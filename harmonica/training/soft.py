"""Soft reuse, the differentiable form of caching that routers are trained with (paper, equation 3)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonica.backbones.base import Backbone
from harmonica.backbones.layers import add, mix
from harmonica.execution import StepPolicy
from harmonica.training.logits import Row


@dataclass
class Soft(StepPolicy):
    """The student in training: each output is m = r·fresh + (1−r)·cached; if r > τ, m is cached.

    A branch without a cached output is computed and cached as it is. The cache takes no gradient unless `detach` is
    off. With `checkpointing` a branch is recomputed for its gradients instead of keeping its activations; with
    `offload` the cache, and the differences to it that gradients need, are in the host's memory.
    """

    backbone: Backbone
    cache: dict[int, Tensor] = field(default_factory=dict)
    checkpointing: bool = False
    offload: bool = False
    detach: bool = True

    def row(self, row: Row | None, first: Tensor | None = None) -> StepPolicy:
        """The policy of one step; None computes everything and fills the cache. `first` is the output of the first
        branch for these latents, if it is known."""
        self._row, self._first = row, first
        return self

    def __call__(self, i, x, ctx):
        if i == 0 and self._first is not None:
            out, self._first = self._first, None  # not kept beyond its use
        elif x.requires_grad and self.checkpointing:
            out = checkpoint(self.backbone.delta, i, x, ctx, use_reentrant=False)
        else:
            out = self.backbone.delta(i, x, ctx)
        if self._row is None or i not in self.cache:
            self._store(i, out)
        else:
            with torch.autograd.graph.save_on_cpu() if self.offload else nullcontext():
                out = mix(self.cache[i].to(out.device, non_blocking=True), out, self._row.ratios[i])
            if self._row.refresh is not None and self._row.refresh[i]:
                self._store(i, out)
        return add(x, out, self.backbone.gate(i, ctx)), i + 1

    def _store(self, i: int, out: Tensor) -> None:
        kept = out.detach() if self.detach else out
        self.cache[i] = kept.to(torch.device("cpu")) if self.offload else kept
