"""The records of measurements: where images are, what was measured of them, latencies, drifts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonica.utils import UserError
from harmonica.utils.records import Record

_TEXT, _COUNT, _SECONDS = {"type": "string"}, {"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_HARDWARE = {"device": _TEXT, "precision": _TEXT}


def _by_name(item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "object", "minProperties": least, "additionalProperties": item}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


@dataclass(frozen=True)
class Manifest(Record):
    """The chunk files that one sampling job has generated, by name of the plan, the model of each plan, and the seed of
    all images."""

    kind = "a manifest of images"
    properties = _HARDWARE | {
        "seed": {"type": "integer", "minimum": 0},
        "models": _by_name(_TEXT),
        "images": _by_name(_list(_TEXT | {"pattern": r"(^|/)\d{6,12}-\d{6,12}\.npz$"}), 1),
    }
    device: str
    precision: str
    seed: int
    models: dict[str, str]
    images: dict[str, list[str]]

    @staticmethod
    def read(paths: Sequence[str | Path]) -> Manifests:
        """Those of all shards."""
        return Manifests([Manifest.load(path) for path in paths])


@dataclass(frozen=True)
class Manifests:
    """The manifests of several shards or groups."""

    each: list[Manifest]

    @property
    def files(self) -> dict[str, list[str]]:
        """Chunk files by name of the plan."""
        merged: dict[str, list[str]] = {}
        for manifest in self.each:
            for name, files in manifest.images.items():
                merged.setdefault(name, []).extend(files)
        return merged

    @property
    def made_on(self) -> list[dict[str, str]]:
        """The different devices and precisions."""
        found = [{"device": m.device, "precision": m.precision} for m in self.each]
        return [x for i, x in enumerate(found) if x not in found[:i]]

    def check_seeds(self) -> None:
        """Raise UserError if images are of several seeds: none is another's counterpart."""
        found = sorted({m.seed for m in self.each})
        if len(found) > 1:
            raise UserError(f"images of the seeds {' and '.join(map(str, found))} are not measured together")

    def model(self, names: Iterable[str]) -> str:
        """The model of the images of these plans. Raises UserError if they have several."""
        found = {m.models[name] for name in names for m in self.each if name in m.models}
        if len(found) != 1:
            raise UserError(f"images of the models {', '.join(sorted(found)) or 'none'} are not measured together")
        return found.pop()


_ROW = {
    "type": "object",
    "required": ["N", "blocks"],
    "properties": {
        "N": _COUNT, "N_pairs": _COUNT, "N_converged": _COUNT, "extractor": _TEXT, "clip_model": _TEXT,
        "blocks": _by_name(_list({"type": "number"})), **dict.fromkeys(("skipped", "skipped_sd"), _SHARE),
    },
    "additionalProperties": {"type": "number"},
}  # fmt: skip


@dataclass(frozen=True)
class Metrics(Record):
    """The metrics of a case's rows, by name of the plan: see `evaluate.results`; with what they were compared with."""

    kind = "a file of metrics"
    properties = {
        "device": _TEXT,
        "images_made_on": {"type": "array", "items": _by_name(_TEXT)},
        "reference": {"type": "object"},
        "rows": _by_name(_ROW, 1),
    }
    device: str
    images_made_on: list[dict[str, str]]
    reference: dict[str, Any]  # its identity: `references.Identity`
    rows: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Latency(Record):
    """What `latency.measure` returns, by name of the plan, with the requested batch and the rounds that were done."""

    kind = "a file of latencies"
    properties = _HARDWARE | {
        "batch": _COUNT, "rounds": _COUNT, "threads": _COUNT, "compiled": {"type": "boolean"},
        "plans": _by_name({
            "type": "object", "additionalProperties": False, "required": ["latency_s", "rounds_s", "batch"],
            "properties": {"latency_s": _SECONDS, "rounds_s": _list(_SECONDS), "batch": _COUNT},
        }, 1),
    }  # fmt: skip
    device: str
    precision: str
    batch: int
    rounds: int
    threads: int
    compiled: bool  # whether steps are graphs of torch.compile
    plans: dict[str, dict[str, Any]]


def in_precision(name: str, precision: str) -> str:
    """The name of a plan's timing in a precision that is not that of the others."""
    return f"{name}@{precision}"


@dataclass(frozen=True)
class Drift(Record):
    """What `drift.measure` returns, over this many images."""

    kind = "a file of drifts"
    properties = _HARDWARE | {"images": _COUNT, "drift": _by_name(_list({"type": "number"}), 1)}
    device: str
    precision: str
    images: int
    drift: dict[str, list[float]]
