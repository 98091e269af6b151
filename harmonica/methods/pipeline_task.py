"""The task of a method on a diffusers pipeline: everything it learns comes from calls of the pipeline itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from harmonica.methods.base import Task
from harmonica.plan import BranchLayout, Plan, Protocol
from harmonica.utils import UserError


@dataclass(frozen=True)
class PipelineTask(Task):
    """`calls` are a `runtimes.pipeline_calls.Calls`. There is no backbone: a method that trains raises UserError."""

    calls: Any = None

    @property
    def layout(self) -> BranchLayout:
        """The branches of the transformer, with their measured MACs."""
        return self.calls.layout

    @property
    def model(self):
        raise self._missing()

    @property
    def sampler(self):
        raise self._missing()

    @property
    def backbone(self):
        raise self._missing()

    def _missing(self) -> UserError:
        return UserError(f"{self.origin.method} needs a model of this suite: it does not work on a pipeline")

    def record(
        self,
        images: int,
        what: Collection[str] = ("branches",),
        plan: Plan | None = None,
        reduce: Callable[[Any], Any] = lambda output: output,
    ):
        """As `Task.record`, of the uncached pipeline: `what` is of "branches", "inputs" and "streams"."""
        import torch

        from harmonica.runtimes.pipeline_calls import CALIBRATION
        from harmonica.runtimes.pipeline_records import Recorder, joined
        from harmonica.training.recording import Recording

        if plan is not None or set(what) - {"branches", "inputs", "streams"}:
            raise UserError(f"{self.origin.method} needs {', '.join(what)}: a pipeline is recorded without them")
        found: list[Any] = []
        for k in tqdm(range(images), f"{self.origin.method}: recorded images", mininterval=5):
            _, trajectory = self.calls.run(
                k, lambda: Recorder(self.calls.blocks, self.steps, what, reduce), self.seed, CALIBRATION
            )
            found += trajectory.all
        self._count(images)
        branches, inputs, streams = joined(found)
        return Recording(torch.empty(0), torch.empty(0), branches, inputs, streams)

    def closed_loop(self, protocol: Protocol, images: int, against: str = "uncached", batch: int | None = None):
        if protocol != self.protocol or against != "uncached":
            raise UserError(
                f"{self.origin.method} on a pipeline keeps its scheduler and steps, and is judged against the uncached "
                "images: leave out solver, grid and against"
            )
        return PipelineLoop(self, images)

    def decisions(self, plan: Plan, images: int):
        from harmonica.runtimes.pipeline_calls import CALIBRATION

        return self.calls.skipped(range(images), plan, self.seed, CALIBRATION)

    def stages(self, sampler: str, steps: int) -> int:
        return 1

    def _count(self, images: int) -> None:
        self.cost["generation_passes"] = self.cost.get("generation_passes", 0) + images


class PipelineLoop:
    """A few random images, and the final latents that the uncached pipeline gives them: `closed_loop.ClosedLoop` on a
    pipeline."""

    def __init__(self, task: PipelineTask, images: int):
        from harmonica.runtimes.pipeline_calls import CALIBRATION

        self.task, self.images, self.stream = task, range(images), CALIBRATION
        self.targets = self._latents(None)

    def _latents(self, plan: Plan | None):
        self.task._count(len(self.images))
        return self.task.calls.latents(self.images, plan, self.task.seed, self.stream)

    def value(self, plan: Plan) -> float:
        """Mean PSNR of the images' final latents, in dB for a range of 2; minus infinity if they are not finite, or the
        plan's spans are none of this transformer."""
        from harmonica.training.closed_loop import decibels

        try:
            db = float(decibels(self._latents(plan), self.targets).mean())
        except UserError:
            return -np.inf
        return db

    def fit(self, *args: Any, **more: Any) -> Plan:
        raise self.task._missing()
