"""What a plan file holds besides actions: the protocol to run it with, and the origin to reproduce it from."""

from dataclasses import asdict, dataclass, field
from typing import Any

_NUMBER, _TEXT, _OBJECT = {"type": "number"}, {"type": "string"}, {"type": "object"}


@dataclass(frozen=True)
class Protocol:
    """What to run: a plan fits one model, sampler and number of steps."""

    model: str
    sampler: str
    steps: int  # T; one step is one evaluation of the model
    cfg: float  # guidance scale; 1 is without guidance
    prior_noise: float = 0.0  # share of the starting noise added after each of the later steps (Faster Diffusion)
    # of a plan made on a diffusers pipeline: the settings of its scheduler, whose class is the sampler, as JSON
    scheduler: str = ""
    true_cfg: float = 1.0  # of such a plan: the scale of a guidance beside a distilled one (Flux)


@dataclass(frozen=True)
class Origin:
    """Where a plan or router comes from."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0  # of a training, or of random choices
    versions: dict[str, str] = field(default_factory=dict)
    # of training: training_s (seconds), images, updates (of rows of logits), rounds, generation_passes (trajectories
    # generated for λ), peak_MB (above the loaded model)
    cost: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # what the method found: β, threshold, loss
    hardware: dict[str, str] = field(default_factory=dict)  # of training: device, and precision of the branches


BY_HAND = Origin("by hand")


def _object(required: list[str], **properties) -> dict:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


OF_PIPELINES = {"scheduler": "", "true_cfg": 1.0}  # fields of other plans' files, with their defaults
_COST = dict.fromkeys(("training_s", "images", "updates", "rounds", "generation_passes", "peak_MB"), _NUMBER)
PROTOCOL_SCHEMA = _object(
    ["model", "sampler", "steps", "cfg"],
    model=_TEXT, sampler=_TEXT, steps={"type": "integer", "minimum": 1, "maximum": 1000},
    cfg={"type": "number", "minimum": 1, "maximum": 1000},
    prior_noise={"type": "number", "minimum": 0, "exclusiveMaximum": 1}, scheduler=_TEXT,
    true_cfg={"type": "number", "minimum": 1, "maximum": 1000},
)  # fmt: skip
ORIGIN_SCHEMA = _object(
    ["method"],
    method=_TEXT, settings=_OBJECT, seed={"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31},
    versions=_OBJECT | {"additionalProperties": _TEXT},
    cost=_object([], **_COST), notes=_OBJECT, hardware=_OBJECT | {"additionalProperties": _TEXT},
)  # fmt: skip


def to_json(protocol: Protocol, origin: Origin) -> dict:
    """Both as one JSON-able object."""
    about = asdict(protocol)
    unused = {k for k, default in OF_PIPELINES.items() if about[k] == default}
    return {"protocol": {k: v for k, v in about.items() if k not in unused}, "origin": asdict(origin)}


def from_json(about: dict) -> tuple[Protocol, Origin]:
    """The inverse of `to_json`. Raises jsonschema.ValidationError, or KeyError if a part is missing."""
    import jsonschema

    jsonschema.validate(about["protocol"], PROTOCOL_SCHEMA)
    jsonschema.validate(about["origin"], ORIGIN_SCHEMA)
    return Protocol(**about["protocol"]), Origin(**about["origin"])


def split_version_1(origin: dict) -> dict:
    """The single record of a version-1 file, split into the parts of version 2."""
    own = {k: origin[k] for k in PROTOCOL_SCHEMA["properties"] if k in origin}
    return {"protocol": own, "origin": {k: v for k, v in origin.items() if k not in own}}
