"""The base class of compressors, and the task they get. A compressor is a frozen dataclass: its fields are its
settings. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harmonica.compression.file import FULL_BITS, Compression, Layer
from harmonica.models import Model
from harmonica.models.task import ModelTask
from harmonica.plan import Protocol
from harmonica.plan.costs import weight_bytes
from harmonica.utils import setting


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

    def peak(self, model: Model, memory: float | None) -> float:
        """Predicted peak bytes of making it, of `memory` bytes (None: no limit): two models and a graph."""
        return 4 * weight_bytes(model.layout)

    @property
    def width(self) -> tuple[int, int]:
        """Bits of a weight and of an activation."""
        return FULL_BITS, FULL_BITS


@dataclass(frozen=True)
class Quantiser(Compressor):
    """A compressor whose bits are settings."""

    weight_bits: int = setting(8, "bits of a weight", at_least=2, at_most=8)
    act_bits: int = setting(8, "bits of an activation", at_least=2, at_most=8)

    def label(self) -> str:
        return f"{self.title} W{self.weight_bits}A{self.act_bits}"

    @property
    def width(self) -> tuple[int, int]:
        return self.weight_bits, self.act_bits


@dataclass(frozen=True)
class CompressionTask(ModelTask):
    """What a model is compressed for; the protocol's trajectories are those of the calibration."""

    def compression(self, tensors: dict[str, Any], layers: dict[str, Layer], **more) -> Compression:
        """The result; `cost` and `notes` go into its origin, `kept`, `layout` and `timesteps` are its own."""
        origin = replace(self.origin, cost=more.pop("cost", {}), notes=more.pop("notes", {}))
        return Compression(self.protocol, origin, layers, read=lambda: tensors, **more)
