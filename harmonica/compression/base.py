"""The base class of compressors, and the task they get. A compressor is a frozen dataclass: its fields are its
settings. No torch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from harmonica.compression.file import Compression, Layer
from harmonica.models import Model, get_model
from harmonica.plan import Origin, Protocol
from harmonica.samplers import Sampler, make_sampler


@dataclass(frozen=True)
class Compressor(ABC):
    """A way to compress a model, with its settings, declared by `harmonica.utils.setting`.

    Only `title` and `make` are required. The module must import without torch: the workflow lists all compressors.
    """

    title: ClassVar[str]  # as tables print it
    images: ClassVar[bool] = False  # whether it reads training images
    gpu: ClassVar[bool] = False  # whether what it makes runs on a GPU only
    seeded: ClassVar[bool] = False  # whether it depends on the seed

    @abstractmethod
    def make(self, task: CompressionTask) -> Compression:
        """The compressed model."""

    def label(self) -> str:
        """The title as tables print it, if it depends on the settings."""
        return self.title

    def work(self, protocol: Protocol, scale: str) -> tuple[float, float]:
        """What it computes, in guided images: evaluations of the model, and updates of a compressed one."""
        return 0.0, 0.0

    @property
    def width(self) -> tuple[int, int]:
        """Bits of a weight and of an activation, for a compressor that has them as settings."""
        return getattr(self, "weight_bits", 32), getattr(self, "act_bits", 32)


@dataclass(frozen=True)
class CompressionTask:
    """What a model is compressed for. Weights are loaded when they are first used, and time counts from then."""

    protocol: Protocol  # the trajectories of the calibration
    origin: Origin  # compressor, settings, seed and versions of the result
    name: str = "compress"  # in progress bars
    precision: str = "float32"  # of the uncompressed model
    loaded: Callable[[], Any] = lambda: None  # called once the weights are loaded
    clock: list[float] = field(default_factory=list)  # when the weights were loaded

    @property
    def model(self) -> Model:
        return get_model(self.protocol.model)

    @property
    def seed(self) -> int:
        return self.origin.seed

    @cached_property
    def sampler(self) -> Sampler:
        return make_sampler(self.protocol.sampler, self.protocol.steps, self.model.schedule)

    @cached_property
    def backbone(self):
        """The model with its weights, a `harmonica.backbones.base.Backbone`."""
        backbone = self.another(self.precision)
        self.clock.append(time.perf_counter())
        self.loaded()
        return backbone

    def another(self, precision: str = "float32"):
        """A second copy of the model, for what changes it."""
        from harmonica.models.loading import load_backbone

        return load_backbone(self.model, precision)

    def training_latents(self):
        """Latents of real training images, whose `draw` gives those of indices, and labels (n,). Raises UserError if
        there are none."""
        from harmonica.models.loading import load_autoencoder
        from harmonica.models.training_images import training_latents

        vae = None if self.model.hub else load_autoencoder(self.model)
        return training_latents(self.model, vae)

    def compression(self, tensors: dict[str, Any], layers: dict[str, Layer], **more) -> Compression:
        """The result; `cost` and `notes` go into its origin, `kept`, `layout` and `timesteps` are its own."""
        origin = replace(self.origin, cost=more.pop("cost", {}), notes=more.pop("notes", {}))
        return Compression(self.protocol, origin, layers, read=lambda: tensors, **more)
