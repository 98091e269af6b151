"""Which layers of a backbone can be compressed, and what their inputs are."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from torch import nn

from harmonica.backbones.base import Backbone
from harmonica.compression.file import Layer
from harmonica.models import Model
from harmonica.utils import UserError


class Place(Enum):
    """What a layer is applied to, which decides how it is quantised."""

    STREAM = "stream"  # the tokens, in a branch
    CONDITION = "condition"  # one vector per image, at every step
    ONCE = "once"  # the condition alone, once per trajectory
    EDGE = "edge"  # time embedding and head: 8 bits and one scale, whatever the others have
    WEIGHTS = "weights"  # no linear layer that is called: integers in the file, a float product
    KEPT = "kept"  # in full precision: the joins of long skips


# by the first part of a layer's name that is here
_PLACES = {
    **dict.fromkeys(("qkv", "proj", "query", "cross_proj", "up", "down", "fc1", "fc2"), Place.STREAM),
    **dict.fromkeys(("modulation", "final_modulation"), Place.CONDITION),
    **dict.fromkeys(("caption_in", "caption_out", "key_value"), Place.ONCE),
    **dict.fromkeys(
        ("time_in", "time_out", "size_in", "size_out", "ratio_in", "ratio_out", "out", "decoder_pred"), Place.EDGE
    ),
    **dict.fromkeys(("to_gates", "patch_in", "patch_embed"), Place.WEIGHTS),
    "skip_linear": Place.KEPT,
}


def layers(backbone: Backbone) -> Iterator[tuple[str, nn.Linear | nn.Conv2d, Place]]:
    """Every linear layer and convolution, by name. Raises UserError for one that is not known here."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found = [_PLACES[part] for part in name.split(".") if part in _PLACES]
            if not found:
                raise UserError(f"the layer {name} of {backbone.layout.name} is not known to compressions")
            yield name, module, found[0]


def described(
    model: Model, name: str, module: nn.Linear | nn.Conv2d, place: Place, weight_bits: int, act_bits: int, scales: str
) -> Layer:
    """What a file says of a quantised layer, with the MACs of its product."""
    layout = model.layout
    outputs, inputs = module.weight.flatten(1).shape
    rows = {Place.STREAM: layout.tokens, Place.ONCE: model.text_tokens}.get(place, 1)
    if name in ("out", "decoder_pred"):
        rows = layout.tokens - layout.condition_tokens
    elif place is Place.WEIGHTS:  # counted as the float product that it is
        return Layer(inputs, weight_bits)
    return Layer(inputs, weight_bits, act_bits, scales, float(rows * outputs * inputs), place is Place.ONCE)


def linear_of(backbone: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name."""
    layer = backbone.get_submodule(name)
    assert isinstance(layer, nn.Linear), name
    return layer


def replace(backbone: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, also in a plain list of blocks, which shares them."""
    owner, _, own = name.rpartition(".")
    setattr(backbone.get_submodule(owner), own, module)
