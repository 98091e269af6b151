"""A compressed model: a protocol, a compressor with its settings, a seed. Its slug names its file."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from harmonica.compression import Compression, CompressionTask, Compressor, get_compressor
from harmonica.experiments import identity
from harmonica.models import Model, get_model
from harmonica.plan import Origin, Protocol
from harmonica.utils import parse, spelled
from harmonica.utils.precision import check_precision, products
from harmonica.utils.provenance import device, versions


@dataclass(frozen=True)
class CompressedModel:
    """`name` is the compressor's; the protocol says whose trajectories it is calibrated on."""

    protocol: Protocol
    name: str
    compressor: Compressor
    seed: int = 0

    @staticmethod
    def of(protocol: Protocol, name: str, settings: dict[str, Any], seed: int = 0) -> "CompressedModel":
        """Check every name and value. Raises UserError for the first that is wrong."""
        get_model(protocol.model)
        identity.check_protocol(protocol)
        identity.check_seed(seed)
        return CompressedModel(protocol, name, parse(get_compressor(name), name, settings), seed)

    @property
    def model(self) -> Model:
        return get_model(self.protocol.model)

    @property
    def arguments(self) -> str:
        """This compression for the command line `harmonica compress`."""
        return identity.arguments(self.name, self.protocol, self.seed, spelled(self.compressor).items())

    @property
    def label(self) -> str:
        """The compressor and the settings that differ from their default, as part of a file's name."""
        return identity.with_settings(self.name, self.compressor)

    @property
    def slug(self) -> str:
        return identity.slug(self.protocol, self.seed, self.label)

    def make(self, loaded: Callable[[], Any] = lambda: None, precision: str = "float32") -> Compression:
        """Compress the model; `loaded` is called once its weights are loaded, and its time counts from then. Raises
        what the compressor raises."""
        origin = Origin(self.name, asdict(self.compressor), self.seed, versions())
        task = CompressionTask(self.protocol, origin, self.slug, check_precision(precision), loaded)
        with products(precision):
            made = self.compressor.make(task)
        cost = made.origin.cost | {"training_s": round(time.perf_counter() - task.clock[0], 2)}
        hardware = {"device": device(), "precision": precision}
        return replace(made, origin=replace(made.origin, cost=cost, hardware=hardware))
