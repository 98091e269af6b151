"""Features of a pipeline's transformer, to calibrate methods with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from harmonica.runtimes.pipeline_branches import Block, Output, first_tensor, pack
from harmonica.runtimes.pipeline_hooks import Evaluations, Streams


class Recorder(Evaluations):
    """Keeps what is asked for of one place in a step: of `branches`, `inputs` and `streams`, as `training.recording`
    describes them; streams are the image's tokens."""

    def __init__(
        self, blocks: tuple[Block, ...], steps: int, what: Collection[str], reduce: Callable[[Tensor], Tensor]
    ):
        super().__init__(blocks, steps)
        self.what, self.reduce = what, reduce
        self.branches: list[list[Tensor]] = []
        self.inputs: list[Tensor] = []
        self.streams: list[Tensor] = []

    def step(self, s: int, streams: Streams) -> None:
        self.branches.append([])
        if "inputs" in self.what and not self.blocks[0].branches:
            self.inputs.append(_kept(streams[0]))
        if "streams" in self.what:
            self.streams.append(_kept(streams[0]))

    def after(self, b: Block, before: Streams, out: Any) -> Any:
        if not b.branches:
            self._branch(lambda: pack(b.given(out, before)) - pack(before))
        if b.stop == self.blocks[-1].stop and "streams" in self.what:
            self.streams.append(_kept(b.given(out, before)[0]))
        return out

    def before_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        if i == 0 and "inputs" in self.what:
            self.inputs.append(_kept(first_tensor(args, more)))
        return None

    def after_branch(self, i: int, out: Any) -> Any:
        self._branch(lambda: Output.of(out).pack(out))
        return out

    def _branch(self, value: Callable[[], Tensor]) -> None:
        if "branches" in self.what:
            self.branches[-1].append(self.reduce(value().float()).cpu())


def _kept(x: Tensor) -> Tensor:
    return x.float().cpu()


def joined(found: list[Recorder]) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Branches, inputs (steps, sequences, …) and streams (steps, 2, sequences, …) of all places and images."""
    first = found[0]
    branches = [
        [torch.cat([r.branches[s][i] for r in found]) for i in range(len(first.branches[s]))]
        for s in range(first.steps)
    ]
    inputs = torch.stack([torch.cat(x) for x in zip(*(r.inputs for r in found), strict=True)] or [torch.empty(0)])
    streams = [torch.cat(x) for x in zip(*(r.streams for r in found), strict=True)]
    return branches, inputs, torch.stack(streams).unflatten(0, (-1, 2)) if streams else torch.empty(0)
