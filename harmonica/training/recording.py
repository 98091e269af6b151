"""Features of a few trajectories, to calibrate a method with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harmonica.execution import Run
from harmonica.execution.denoise import Output
from harmonica.plan import Plan, all_compute
from harmonica.samplers import Sampler
from harmonica.training.starts import random_starts
from harmonica.training.views import View
from harmonica.utils import UserError

WHAT = ("latents", "outputs", "branches", "inputs", "streams")


@dataclass(frozen=True)
class Recording:
    """What was requested of n trajectories; the rest is empty. On the host, in float32.

    `latents` (steps + 1, n, C, H, W) are those before every step, then the final ones; `outputs`
    (steps, n, C_out, H, W) the guided outputs of the model. `branches[s][i]` is the output of branch i at step s before
    its gate, both guidance halves one after the other (halves·n, N, D), or what `reduce` made of it. `inputs`
    (steps, halves·n, N, D) are what the first branch computes from, after norm and modulation; `streams`
    (steps, 2, halves·n, N, D) the stream before the first branch and after the last.
    """

    latents: Tensor
    outputs: Tensor
    branches: list[list[Tensor]]
    inputs: Tensor
    streams: Tensor


def record(
    task, images: int, what: Collection[str], plan: Plan | None, reduce: Callable[[Tensor], Tensor]
) -> Recording:
    """Run `images` random trajectories, uncached or under `plan`, and keep what is asked for.

    Raises UserError for anything not in WHAT, for branches under a plan that does not compute them all, and for final
    latents that are not finite.
    """
    for name in what:
        if name not in WHAT:
            raise UserError(f"a recording has {', '.join(WHAT)}, not {name!r}")
    plan = plan or all_compute(task.protocol, len(task.layout.branches))
    inside = {"branches", "inputs", "streams"} & set(what)
    if inside and plan.actions.any():
        raise UserError(f"only an uncached run computes every branch: record {', '.join(inside)} without a plan")
    (start,) = random_starts(task, images, images, torch.Generator().manual_seed(task.seed))
    latents: list[Tensor] = [start.noise.cpu()]

    def after(s: int, x: Tensor) -> None:
        if "latents" in what:
            latents.append(x.float().cpu())

    watched: Any = _Watched(task.backbone, inside, reduce)
    recorded = _Recorded(watched, plan, start.model.labels)
    if not torch.isfinite(recorded(start.noise, start.seeds, after)).all():
        raise UserError(f"{task.name}: recorded latents are not finite: weights or precision of the model are wrong")
    return Recording(
        torch.stack(latents) if "latents" in what else torch.empty(0),
        torch.stack(recorded.outputs) if "outputs" in what else torch.empty(0),
        watched.branches,
        torch.stack(watched.inputs) if watched.inputs else torch.empty(0),
        torch.stack(watched.streams).unflatten(0, (-1, 2)) if watched.streams else torch.empty(0),
    )


class _Recorded(Run):
    """A run that keeps the outputs of the model."""

    outputs: list[Tensor]

    def output(self, sampler: Sampler) -> Output:
        self.outputs, own = [], super().output(sampler)

        def output(latents: Tensor, s: int) -> Tensor:
            out = own(latents, s)
            self.outputs.append(out.float().cpu())
            return out

        return output


class _Watched(View):
    """A backbone that keeps what it computes, of the names in `what`."""

    def __init__(self, backbone, what: Collection[str], reduce: Callable[[Tensor], Tensor]):
        super().__init__(backbone)
        self._what, self._reduce = what, reduce
        self.branches: list[list[Tensor]] = []
        self.inputs: list[Tensor] = []
        self.streams: list[Tensor] = []

    def delta(self, i: int, x: Tensor, ctx: Any) -> Tensor:
        out = self._backbone.delta(i, x, ctx)
        if i == 0:
            self._first(x, ctx)
        if "branches" in self._what:
            self.branches[-1].append(self._reduce(out.float()).cpu())
        return out

    def _first(self, x: Tensor, ctx: Any) -> None:
        if "branches" in self._what:
            self.branches.append([])
        if "inputs" in self._what:
            self.inputs.append(self._backbone.normed(0, x, ctx).float().cpu())
        if "streams" in self._what:
            self.streams.append(x.float().cpu())

    def head(self, x: Tensor, ctx: Any) -> Tensor:
        if "streams" in self._what:
            self.streams.append(x.float().cpu())
        return self._backbone.head(x, ctx)
