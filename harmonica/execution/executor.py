"""The one loop over the branches of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from harmonica.backbones.base import Backbone

if TYPE_CHECKING:
    from harmonica.execution.policy import StepPolicy


def evaluate(backbone: Backbone, latents: Tensor, t: Tensor | float, condition: Any, step: StepPolicy) -> Tensor:
    """The model's output (B, C_out, H, W) for latents (B, C, H, W) at timestep `t`, with `step` deciding each branch.

    `condition` is `backbone.condition(labels)`. Branches compute in the dtype of the backbone's weights; latents and
    output keep theirs. Long skips begin and end before branches that the policy reaches; those carried between steps
    are in `step.skips`.
    """
    x, ctx = backbone.embed(latents.to(backbone.dtype), t, condition)
    i, last, skips = 0, len(backbone.layout.branches), step.skips
    while i < last:
        if i in backbone.joins:
            x = backbone.join(i, x, skips)
        x, i = step(i, x, ctx)
    return backbone.head(x, ctx).to(latents.dtype)
