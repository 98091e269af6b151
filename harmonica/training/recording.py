"""Features of a few trajectories, to calibrate a method with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harmonica.execution import Planned, Run
from harmonica.execution.denoise import Output
from harmonica.plan import Plan, all_compute
from harmonica.samplers import Sampler
from harmonica.training.starts import random_starts
from harmonica.training.views import View
from harmonica.utils import UserError

WHAT = ("latents", "outputs", "branches")


@dataclass(frozen=True)
class Recording:
    """What was requested of n trajectories; the rest is empty. On the host, in float32.

    `latents` (steps + 1, n, C, H, W) are those before every step, then the final ones; `outputs`
    (steps, n, C_out, H, W) the guided outputs of the model. `branches[s][i]` is the output of branch i at step s before
    its gate, both guidance halves one after the other (halves·n, N, D), or what `reduce` made of it.
    """

    latents: Tensor
    outputs: Tensor
    branches: list[list[Tensor]]


def record(
    task, images: int, what: Collection[str], plan: Plan | None, reduce: Callable[[Tensor], Tensor]
) -> Recording:
    """Run `images` random trajectories, uncached or under `plan`, and keep what is asked for.

    Raises UserError for anything not in WHAT, and for branches under a plan that does not compute them all.
    """
    for name in what:
        if name not in WHAT:
            raise UserError(f"a recording has {', '.join(WHAT)}, not {name!r}")
    plan = plan or all_compute(task.protocol, len(task.layout.branches))
    if "branches" in what and plan.actions.any():
        raise UserError("only an uncached run computes every branch: record branches without a plan")
    (start,) = random_starts(task, images, images, torch.Generator().manual_seed(task.seed))
    latents: list[Tensor] = [start.noise.cpu()]
    branches: list[list[Tensor]] = []

    def keep(i: int, output: Tensor) -> None:
        if i == 0:
            branches.append([])
        branches[-1].append(reduce(output.float()).cpu())

    def after(s: int, x: Tensor) -> None:
        if "latents" in what:
            latents.append(x.float().cpu())

    watched: Any = _Watched(task.backbone, keep) if "branches" in what else task.backbone
    recorded = _Recorded(task.backbone, plan, start.model.labels, Planned(watched, plan))
    recorded(start.noise, start.seeds, after)
    return Recording(
        torch.stack(latents) if "latents" in what else torch.empty(0),
        torch.stack(recorded.outputs) if "outputs" in what else torch.empty(0),
        branches,
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
    """Outputs of computed branches are passed on to `keep`."""

    def __init__(self, backbone, keep: Callable[[int, Tensor], None]):
        super().__init__(backbone)
        self._keep = keep

    def delta(self, i: int, x: Tensor, ctx: Any) -> Tensor:
        out = self._backbone.delta(i, x, ctx)
        self._keep(i, out)
        return out
