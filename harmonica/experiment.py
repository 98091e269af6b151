"""An experiment: model, sampler, steps, guidance scale, method and its settings. Its slug names its files."""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harmonica import methods
from harmonica.errors import UserError
from harmonica.memory import Peak
from harmonica.models import Model, get_model
from harmonica.plan import Origin, Plan
from harmonica.precision import precision
from harmonica.provenance import versions
from harmonica.router import Router
from harmonica.samplers import make_sampler
from harmonica.shape import Shape


@dataclass(frozen=True)
class Experiment:
    """`settings` is the method's own frozen dataclass."""

    model: str
    sampler: str
    steps: int
    cfg: float
    method: str
    settings: Any
    seed: int = 0

    @staticmethod
    def of(model: str, sampler: str, steps: int, cfg: float, method: str, settings: dict, seed: int = 0):
        """Check every name and value. Raises UserError for the first that is wrong."""
        kind, kinds = get_model(model).kind, getattr(methods.get_method(method), "KINDS", None)
        if kinds and kind not in kinds:
            raise UserError(f"{method} is for {' and '.join(kinds)}, and {model} is a {kind}")
        make_sampler(sampler, steps)
        if not 0 <= seed < 2**31:
            raise UserError(f"a seed lies between 0 and {2**31 - 1}, not at {seed}")
        if not 1 <= cfg < float("inf"):
            raise UserError(f"a guidance scale is at least 1, not {cfg}")
        return Experiment(model, sampler, steps, cfg, method, methods.make_settings(method, settings), seed)

    @property
    def slug(self) -> str:
        parts = [self.model, f"{self.sampler}{self.steps}"]
        parts += [f"cfg{self.cfg:g}"] if self.cfg != 1.5 else []
        parts += [f"seed{self.seed}"] if self.seed else []
        parts.append("-".join([self.method] + [f"{k}{v}" for k, v in methods.spelled(self.settings).items()]))
        return re.sub(r"[^A-Za-z0-9._-]", "", "_".join(parts))

    @property
    def source(self) -> tuple[str, int]:
        """Sampler and steps of the plan that the method starts from, if it starts from one."""
        module = methods.get_method(self.method)
        sampler, steps = module.source(self.settings) if hasattr(module, "source") else ("", 0)
        return sampler or self.sampler, steps or self.steps

    def make(
        self,
        other_plans: dict[str, Plan] | None = None,
        checkpoint: Path | None = None,
        loaded: Callable[[], None] = lambda: None,
    ) -> tuple[Plan, Router | None]:
        """Run the method: its plan, and its router if it learned one.

        `other_plans` holds the plans it REQUIRES, by method name. A long training keeps a checkpoint beside the file
        name `checkpoint` and goes on from it. `loaded` is called once the weights are there: training time counts from
        then.
        """
        module = methods.get_method(self.method)
        required = getattr(module, "REQUIRES", None)
        if required and required not in (other_plans or {}):
            raise UserError(f"{self.method} starts from the plan of {required}: pass it with --from PLAN")
        task = Task(self, other_plans or {}, checkpoint, loaded)
        made = module.make(task, self.settings)
        if isinstance(made, Router):
            before = made.origin.cost.get("training_s", 0)  # what an interrupted run had spent
            spent = round(before + time.perf_counter() - task.clock[0], 2)
            router = made.with_cost(training_s=spent, peak_MB=round(task.peak[0].megabytes(), 1))
            return router.plan(router.origin.notes["threshold"]), router
        return made, None


@dataclass(frozen=True)
class Task:
    """What a method gets to work with. Weights and images are loaded only when they are asked for."""

    experiment: Experiment
    plans: dict[str, Plan]
    checkpoint: Path | None = None
    loaded: Callable[[], None] = lambda: None
    clock: list[float] = field(default_factory=list)  # when the weights were loaded
    peak: list[Peak] = field(default_factory=list)  # of memory since then

    @property
    def model(self) -> Model:
        return get_model(self.experiment.model)

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @property
    def steps(self) -> int:
        return self.experiment.steps

    @cached_property
    def backbone(self):
        """The model with its weights (a torch module)."""
        backbone = self.model.load_backbone()
        self.clock.append(time.perf_counter())
        self.peak.append(Peak())
        self.loaded()
        return backbone

    @cached_property
    def precise(self):
        """The model in float32, for what rounding would drown; the `backbone` itself where that is float32."""
        return self.backbone if precision() == "float32" else self.model.load_backbone("float32")

    @cached_property
    def sampler(self):
        return make_sampler(self.experiment.sampler, self.steps)

    def training_latents(self):
        """Latents (n, C, H, W), unit variance, and labels (n,) of real training images; encoding counts as training.

        Both are indexed by a tensor; at the paper scale images are encoded when they are asked for.
        """
        vae = self.model.load_autoencoder()
        assert self.backbone  # from here on time counts
        if self.model.hub:
            from harmonica.imagenet import ImageNetLatents

            latents = ImageNetLatents(vae, self.model.resolution)
            return latents, latents.labels
        from harmonica.pocket.data import training_latents

        return training_latents(self.model, vae)

    def origin(self, **more) -> Origin:
        """The origin of a plan or router made for this task."""
        e = self.experiment
        base = Origin(e.model, e.sampler, e.steps, e.cfg, e.method, asdict(e.settings), e.seed, versions())
        return replace(base, **more)
