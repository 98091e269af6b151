"""Soft reuse, the differentiable form of caching that routers are trained with (paper, equation 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonica.backbones.base import Backbone
from harmonica.backbones.layers import add, mix
from harmonica.execution import StepPolicy
from harmonica.training.settings import CHECKPOINT_TOKENS


@dataclass
class Soft(StepPolicy):
    """The student in training: each output is m = r·fresh + (1−r)·cached; if r > τ, m is cached.

    With `threshold` None the cache is only read (Learning-to-Cache). A branch without a cached output is computed and
    cached as it is. The cache takes no gradient unless `detach` is off. From `checkpoint_tokens` tokens on, a branch is
    recomputed for its gradients instead of keeping its activations.
    """

    backbone: Backbone
    threshold: float | None
    cache: dict[int, Tensor] = field(default_factory=dict)
    checkpoint_tokens: int = CHECKPOINT_TOKENS
    detach: bool = True

    def row(self, ratios: Tensor | None, first: Tensor | None = None) -> StepPolicy:
        """The policy of one step with ratios (branches,); None computes everything and fills the cache. `first` is the
        output of the first branch for these latents, if it is known."""
        self._ratios, self._first = ratios, first
        self._refresh: list[bool] | None = None
        if ratios is not None and self.threshold is not None:
            self._refresh = (ratios > self.threshold).tolist()
        return self

    def __call__(self, i, x, ctx):
        if i == 0 and self._first is not None:
            out = self._first
        elif x.requires_grad and x.shape[1] >= self.checkpoint_tokens:
            out = checkpoint(self.backbone.delta, i, x, ctx, use_reentrant=False)
        else:
            out = self.backbone.delta(i, x, ctx)
        if self._ratios is None or i not in self.cache:
            self.cache[i] = out.detach() if self.detach else out
        else:
            out = mix(self.cache[i], out, self._ratios[i])
            if self._refresh is not None and self._refresh[i]:
                self.cache[i] = out.detach() if self.detach else out
        return add(x, out, self.backbone.gate(i, ctx)), i + 1
