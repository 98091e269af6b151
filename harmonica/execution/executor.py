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
    are in `step.skips`. A step that takes the model's output from a cache computes nothing.
    """
    if (cached := step.cached_output()) is not None:
        return cached.to(latents.dtype)
    own = latents.to(backbone.dtype)
    if step.skips_stream:
        x, ctx = own, backbone.head_context(own, t, condition)  # that x is not looked at
    else:
        x, ctx = backbone.embed(own, t, condition)
    x = run_branches(backbone, (0, len(backbone.layout.branches)), x, ctx, step, step.skips)
    out = backbone.head(x, ctx)
    step.keep_output(out)
    return out.to(latents.dtype)


def run_branches(
    backbone: Backbone, span: tuple[int, int], x: Tensor, ctx: Any, step: StepPolicy, skips: dict[int, Tensor]
) -> Tensor:
    """The stream x (B, N, D) after branches span[0] … span[1]−1; `skips` are long skips begun before, and get more."""
    i, stop = span
    while i < stop:
        if i in backbone.joins:
            x = backbone.join(i, x, skips)
        x, i = step(i, x, ctx)
    return x
