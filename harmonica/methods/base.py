"""The base class of methods, and the task they get. A method is a frozen dataclass: its fields are its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harmonica.compression import Compression
from harmonica.models.task import ModelTask
from harmonica.plan import BranchLayout, Plan, Protocol, Router, Rule
from harmonica.samplers import make_sampler
from harmonica.training import LearnedSettings, Work
from harmonica.utils.precision import itemsize_of


@dataclass(frozen=True)
class Reads:
    """What a method reads besides the model's configuration. Fetch jobs, rerun triggers and estimates use
    it."""

    weights: bool = False  # of the model; with them its captions
    images: bool = False  # training images
    files: tuple[str, ...] = ()  # downloads, by their names in harmonica/models/downloads.py


@dataclass(frozen=True)
class Method(ABC):
    """A caching method with its settings, declared by `harmonica.methods.setting`.

    Only `title` and `make` are required. The module must import without torch: the workflow lists all methods.
    """

    title: ClassVar[str]  # as tables print it
    kinds: ClassVar[tuple[str, ...]] = ()  # of backbone it is for ("dit", "pixart", "uvit"); () is all
    requires: ClassVar[str] = ""  # the method whose plan it starts from, in task.plans
    # the method whose plan it goes on from, if a table has it with equal settings or it is passed; else it does without
    continues: ClassVar[str] = ""
    heading: ClassVar[str] = ""  # of the rows of a table that it stands under, after those without one
    plain: ClassVar[bool] = False  # every branch is computed at every step: a rival of caching
    seeded: ClassVar[bool] = False  # its plan depends on the seed
    gradients: ClassVar[bool] = False  # it needs those of the model

    @abstractmethod
    def make(self, task: Task) -> Plan | Router:
        """The plan for this task, or the router, with its threshold in the origin's notes."""

    def check(self, protocol: Protocol) -> None:  # noqa: B027  (optional)
        """Raise UserError for settings that do not go together with each other or with the protocol; ranges are
        declared with the settings."""

    def plan_sampler(self, protocol: Protocol) -> str:
        """The sampler of its plan, which may be another than the protocol's."""
        return protocol.sampler

    def label(self) -> str:
        """The title as tables print it, if it depends on the settings."""
        return self.title

    def source(self) -> tuple[str, int]:
        """Sampler and steps of the plan it starts from; "" and 0 mean those of its experiment."""
        return "", 0

    def reads(self, protocol: Protocol) -> Reads:
        """What it reads. Raises UserError if that does not exist for this protocol."""
        return Reads()

    def work(self, protocol: Protocol, scale: str) -> Work:
        """What its training computes."""
        return Work()


@dataclass(frozen=True, kw_only=True)
class LearnedMethod(LearnedSettings, Method):
    """A method that trains a router."""

    seeded = gradients = True

    def check(self, protocol: Protocol) -> None:
        self.check_target(self.title, 100 * len(self.routed(protocol)) / protocol.steps)

    def routed(self, protocol: Protocol) -> range:
        """The steps whose branches may be reused."""
        return range(1, protocol.steps)

    def reads(self, protocol: Protocol) -> Reads:
        return Reads(weights=True)

    @abstractmethod
    def work(self, protocol: Protocol, scale: str) -> Work: ...


@dataclass(frozen=True)
class Task(ModelTask):
    """What a method makes a plan for."""

    plans: dict[str, Plan] = field(default_factory=dict)  # those that the method requires or continues, by method
    checkpoint: Path | None = None  # the plan file beside which a training keeps its checkpoint
    memory: float | None = None  # bytes of the GPU that a training may use; None is without limit
    compression: Compression | None = None  # what the model is run, and a router trained, on
    cost: dict[str, float] = field(default_factory=dict)  # of calibration, besides time

    @property
    def layout(self) -> BranchLayout:
        """The branches of the model, their kinds and MACs."""
        return self.compression.layout_of(self.model.layout) if self.compression else self.model.layout

    @cached_property
    def precise(self):
        """The model in float32, for values below rounding; the `backbone` if that is float32."""
        return self.backbone if self.itemsize == 4 else self.another("float32")

    def another(self, precision: str = "float32"):
        backbone = super().another(precision)
        return self.compression.apply(backbone) if self.compression else backbone

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the training's precision."""
        return itemsize_of(self.precision)

    def record(
        self,
        images: int,
        what: Collection[str] = ("branches",),
        plan: Plan | None = None,
        reduce: Callable[[Any], Any] = lambda output: output,
    ):
        """Features of `images` random trajectories, uncached or under `plan`: a `training.recording.Recording`.

        `what` is of "latents", "outputs" and "branches"; `reduce` makes less of a branch's output (2·images, N, D) as
        it comes, since all of them are steps × branches. The trajectories are the task's seed's, and never those that
        images are generated from. Seconds and trajectories are in the cost of the method's plan. Raises UserError for
        another `what`, or branches under a plan with a cache.
        """
        from harmonica.training.recording import record

        found = record(self, images, what, plan, reduce)
        self.cost["generation_passes"] = self.cost.get("generation_passes", 0) + images
        return found

    def closed_loop(self, protocol: Protocol, images: int, against: str = "uncached", batch: int | None = None):
        """What judges plans by the final latents of a few random images, a `training.closed_loop.ClosedLoop`."""
        from harmonica.training.closed_loop import ClosedLoop

        return ClosedLoop(self, protocol, images, against, batch)

    def decisions(self, plan: Plan, images: int):
        """What every sequence of a few random images skips under a plan with a rule, bool (sequences, steps)."""
        from harmonica.training.thresholds import decisions

        return decisions(self, plan, images)

    def stages(self, sampler: str, steps: int) -> int:
        """Evaluations of one interval of a sampler."""
        return make_sampler(sampler, steps).stages

    def actions(self) -> np.ndarray:
        """A table uint8 (steps, branches) that computes everything; row 0 is the noisiest step."""
        return np.zeros((self.steps, len(self.layout.branches)), np.uint8)

    def plan(
        self,
        actions: np.ndarray,
        prior_noise: float = 0.0,
        sampler: str | None = None,
        weights: np.ndarray | None = None,
        rule: Rule | None = None,
        **notes,
    ) -> Plan:
        """The plan of actions (steps, branches), maybe for another sampler, with the `weights` of forecasts, or the
        `rule` that decides about them; `notes` are the method's findings."""
        protocol = replace(
            self.protocol, steps=len(actions), prior_noise=prior_noise, sampler=sampler or self.protocol.sampler
        )
        return Plan(actions, protocol, replace(self.origin, notes=notes), weights, rule)

    def router(self, logits: np.ndarray, cost: dict[str, float], notes: dict[str, Any]) -> Router:
        """The router of logits (steps, branches), with its cost and the training's notes."""
        return Router(logits, self.protocol, replace(self.origin, cost=cost, notes=notes))
