"""A compression: a file with all weights of a compressed backbone, and what it was made by. Reading what is known of
one needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonica.plan import BranchLayout, Origin, Protocol
from harmonica.plan.io import opened
from harmonica.plan.origin import from_json, to_json
from harmonica.utils import UserError, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from harmonica.backbones.base import Backbone

FORMAT = "harmonica-compression-2"
COMMAND = "harmonica compress"
FULL_BITS = 32  # of a number that is not quantised, in bit operations


@dataclass(frozen=True)
class Layer:
    """How a layer was quantised. `scales` of its inputs: "static", "step" (one per step), "token" (found for each row
    as it comes), "float8", or "" if they stay as they are, and the product with them."""

    inputs: int  # K, columns of its weight
    weight_bits: int
    act_bits: int = FULL_BITS
    scales: str = ""
    macs: float = 0.0  # of one image and guidance half: at a step, or with `once` in a trajectory
    once: bool = False


@dataclass(frozen=True, eq=False)
class Compression:
    """A backbone in fewer bits or with fewer units, as a file.

    `tensors` are by the names of the compressed backbone's parameters and buffers; a quantised layer has integers,
    scales and zero points in place of its weight. `layers` are the quantised layers. `kept` has the units that pruning
    left: "heads" (of every block), "hidden" (channels of every MLP); `layout` are the fields of the model's
    BranchLayout that this changed. `timesteps` are those that scales of kind "step" are for.
    """

    protocol: Protocol
    origin: Origin
    layers: dict[str, Layer] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    timesteps: tuple[float, ...] = ()
    read: Callable[[], dict[str, Tensor]] = dict
    checksum: str = ""  # of the content of a file; of one that was not saved yet, ""
    bytes: int = 0  # of the file

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers. Raises UserError if those of a file are damaged."""
        return self.read()

    @property
    def differentiable(self) -> bool:
        """Whether its products pass a gradient to their inputs, as the training of a router needs."""
        return not any(layer.scales == "float8" for layer in self.layers.values())

    def layout_of(self, layout: BranchLayout) -> BranchLayout:
        """The layout of the compressed model, from the model's."""
        from dataclasses import replace

        import numpy as np

        changes: dict[str, Any] = {k: np.array(v) if k == "branch_macs" else v for k, v in self.layout.items()}
        return replace(layout, **changes)

    def save(self, path: str | Path) -> Compression:
        """Write the file, atomically; returns what `load` reads from it. Raises UserError for what is not finite."""
        import torch
        from safetensors.torch import save

        from harmonica.compression.numerics import pack

        tensors = {}
        for name, value in self.tensors.items():
            owner, _, part = name.rpartition(".")
            value = value.detach().cpu().contiguous()
            if value.is_floating_point() and not torch.isfinite(value.float()).all():
                raise UserError(f"{name} of the compression by {self.origin.method} is not finite: it was not saved")
            if part == "integers" and self.layers[owner].weight_bits <= 4:
                tensors[f"{owner}.packed"] = pack(value)
            else:
                tensors[name] = value
        about = to_json(self.protocol, self.origin) | {
            "layers": {k: v.__dict__ for k, v in self.layers.items()},
            "kept": self.kept, "layout": self.layout, "timesteps": list(self.timesteps),
        }  # fmt: skip
        try:
            text = json.dumps(about, sort_keys=True, allow_nan=False)
        except ValueError:
            raise UserError(f"the compression by {self.origin.method} says a number that is not finite") from None
        metadata = {"format": FORMAT, "about": text, "about_checksum": _hash(text)}
        metadata["checksum"] = _checksum(text, tensors)
        write_atomic(path, save(tensors, metadata=metadata))
        return Compression.load(path)

    @staticmethod
    def load(path: str | Path) -> Compression:
        """Read what a file says, by a checksum of its own; tensors are read, and theirs compared, when they are first
        used.

        Raises UserError if it is missing, damaged, or no compression.
        """
        import jsonschema

        path = Path(path)
        with opened(path, COMMAND) as f:
            metadata = f.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{path} is not a compression: the format in its metadata is {metadata.get('format')!r}, not {FORMAT!r}"
            )
        if _hash(metadata.get("about", "")) != metadata.get("about_checksum"):
            raise UserError(f"{path} is damaged: what its metadata says does not have the checksum in it")
        try:
            about = json.loads(metadata["about"])
            protocol, origin = from_json(about)
            layers = {k: Layer(**v) for k, v in about["layers"].items()}
            more = (about["kept"], about["layout"], tuple(about["timesteps"]))
        except (ValueError, jsonschema.ValidationError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise UserError(f"{path}: the origin in its metadata is damaged ({str(e).splitlines()[0]})") from None
        checksum = metadata.get("checksum", "")

        def read() -> dict[str, Tensor]:
            return _read(path, metadata["about"], checksum, layers)

        return Compression(protocol, origin, layers, *more, read, checksum, path.stat().st_size)

    def apply(self, backbone: Backbone) -> Backbone:
        """The backbone compressed, with the same interface; it takes over the given one, see `build`."""
        from harmonica.compression.build import build

        return build(self, backbone)


def is_compression(path: str | Path) -> bool:
    """Whether a file says that it is one."""
    try:
        with opened(Path(path), COMMAND) as f:
            return (f.metadata() or {}).get("format", "").startswith("harmonica-compression-")
    except UserError:
        return False


def _checksum(about: str, tensors: dict[str, Tensor]) -> str:
    """sha256 of what a file says and of its tensors."""
    from harmonica.utils.torch_files import of_tensors

    return _hash(f"{about} {of_tensors(tensors)}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, about: str, checksum: str, layers: dict[str, Layer]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from harmonica.compression.numerics import unpack

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a complete safetensors file ({e}); run `{COMMAND}` again") from None
    if _checksum(about, tensors) != checksum:
        raise UserError(f"{path} is damaged: its content does not have the checksum in its metadata")
    for name in [k for k in tensors if k.endswith(".packed")]:
        owner = name.removesuffix(".packed")
        tensors[f"{owner}.integers"] = unpack(tensors.pop(name), layers[owner].inputs)
    return tensors
