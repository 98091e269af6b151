"""What everything that is made from a model gets: the model's parts, loaded when they are first used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harmonica.models import Model, get_model
from harmonica.plan import Origin, Protocol
from harmonica.samplers import Sampler, make_sampler
from harmonica.utils.memory import Peak


@dataclass(frozen=True)
class ModelTask:
    """Weights and images are loaded when they are first used, and time counts from then."""

    protocol: Protocol
    origin: Origin  # method or compressor, settings, seed and versions of the result
    name: str = "task"  # in progress bars
    precision: str = "float32"  # of the branches
    loaded: Callable[[], Any] = lambda: None  # called once the weights are loaded
    clock: list[float] = field(default_factory=list)  # when the weights were loaded
    peak: list[Peak] = field(default_factory=list)  # memory since then

    @property
    def model(self) -> Model:
        return get_model(self.protocol.model)

    @property
    def steps(self) -> int:
        return self.protocol.steps

    @property
    def seed(self) -> int:
        return self.origin.seed

    @cached_property
    def sampler(self) -> Sampler:
        return make_sampler(self.protocol.sampler, self.steps, self.model.schedule)

    @cached_property
    def backbone(self):
        """The model with its weights, maybe compressed, a `harmonica.backbones.base.Backbone`."""
        backbone = self.another(self.precision)
        self.clock.append(time.perf_counter())
        self.peak.append(Peak())
        self.loaded()
        return backbone

    def another(self, precision: str = "float32"):
        """A second copy of the model."""
        from harmonica.models.loading import load_backbone

        return load_backbone(self.model, precision)

    def training_latents(self):
        """Latents of real training images, whose `draw` gives those of indices, and labels (n,), see
        `harmonica.models.training_images`. Raises UserError if there are none."""
        from harmonica.models.loading import load_autoencoder
        from harmonica.models.training_images import training_latents

        vae = None if self.model.hub else load_autoencoder(self.model)
        assert self.backbone  # training time counts from here
        return training_latents(self.model, vae)
