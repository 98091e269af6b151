"""A compressed model: a protocol, a compressor with its settings, a seed. Its slug names its file."""

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from harmonica.compression import Compression, CompressionTask, Compressor, get_compressor
from harmonica.models import Model, get_model
from harmonica.plan import Origin, Protocol
from harmonica.samplers import make_sampler
from harmonica.utils import UserError, parse, spelled
from harmonica.utils.precision import check_precision
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
        make_sampler(protocol.sampler, protocol.steps)
        if not 1 <= protocol.cfg < float("inf"):
            raise UserError(f"the guidance scale must be at least 1, got {protocol.cfg}")
        if not 0 <= seed < 2**31:
            raise UserError(f"the seed must be in [0, {2**31 - 1}], got {seed}")
        return CompressedModel(protocol, name, parse(get_compressor(name), name, settings), seed)

    @property
    def model(self) -> Model:
        return get_model(self.protocol.model)

    @property
    def arguments(self) -> str:
        """This compression for the command line `harmonica compress`."""
        p = self.protocol
        out = [self.name, "--model", p.model, "--sampler", p.sampler, "--steps", p.steps, "--cfg", p.cfg]
        out += ["--seed", self.seed]
        for key, value in spelled(self.compressor).items():
            out += ["--set", f"{key}={value}"]
        return shlex.join(map(str, out))

    @property
    def label(self) -> str:
        """The compressor and the settings that differ from their default, as part of a file's name."""
        return "-".join([self.name] + [f"{k}{v}" for k, v in spelled(self.compressor).items()])

    @property
    def slug(self) -> str:
        p = self.protocol
        parts = [p.model, f"{p.sampler}{p.steps}"]
        parts += [f"cfg{p.cfg:g}"] if p.cfg != 1.5 else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return re.sub(r"[^A-Za-z0-9._-]", "", "_".join([*parts, self.label]))

    def make(self, loaded: Callable[[], Any] = lambda: None, precision: str = "float32") -> Compression:
        """Compress the model; `loaded` is called once its weights are loaded, and its time counts from then. Raises
        what the compressor raises."""
        origin = Origin(self.name, asdict(self.compressor), self.seed, versions())
        task = CompressionTask(self.protocol, origin, self.slug, check_precision(precision), loaded)
        made = self.compressor.make(task)
        cost = made.origin.cost | {"training_s": round(time.perf_counter() - task.clock[0], 2)}
        hardware = {"device": device(), "precision": precision}
        return replace(made, origin=replace(made.origin, cost=cost, hardware=hardware))
