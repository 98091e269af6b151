"""The tensors of a compression, from the layers that a compressor made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harmonica.backbones.base import Backbone
from harmonica.compression.linear import QuantLinear
from harmonica.compression.numerics import best_range, min_max, to_grid

EDGE_BITS = 8


def integers_of(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> dict[str, Tensor]:
    """What a file has in place of a weight (N, …), from scales and zero points (N, 1)."""
    rows = weight.detach().flatten(1).float()
    integers = to_grid(rows, scale, zero, bits).to(torch.int8)
    return {
        "integers": integers,
        "weight_scale": scale.detach().flatten(),
        "weight_zero": zero.detach().flatten().short(),
    }


def static_layer(layer: nn.Linear, inputs: Tensor, power: float = 2.4) -> QuantLinear:
    """A linear layer of 8 bits with one scale for its inputs, of which some (n, K) are given."""
    own = integers_of(layer.weight, *min_max(layer.weight.float(), EDGE_BITS), EDGE_BITS)
    scale, zero = best_range(inputs, EDGE_BITS, power)
    own |= {"act_scale": scale.reshape(1), "act_zero": zero.reshape(1)}
    if layer.bias is not None:
        own["bias"] = layer.bias.detach()
    return QuantLinear(own, EDGE_BITS)


def rounded_weights(layer: nn.Linear | nn.Conv2d) -> dict[str, Tensor]:
    """What a file has in place of a weight whose product stays one of floats; the layer gets what that stands for."""
    own = integers_of(layer.weight, *min_max(layer.weight.float(), EDGE_BITS), EDGE_BITS)
    layer.weight.data = weight_of(own).view(layer.weight.shape).to(layer.weight.dtype)
    return own


def weight_of(own: dict[str, Tensor]) -> Tensor:
    """What the integers of a weight stand for, float32 (N, K)."""
    zero = own["weight_zero"].float()[:, None] if "weight_zero" in own else 0
    return (own["integers"].float() - zero) * own["weight_scale"][:, None]


def tensors_of(backbone: Backbone, replaced: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """A backbone's tensors, with those of the `replaced` layers by the names of their parts; biases are theirs unless
    given."""
    own = {k: v for k, v in backbone.state_dict().items()}
    out = {k: v for k, v in own.items() if not any(k.startswith(f"{name}.") for name in replaced)}
    for name, parts in replaced.items():
        if f"{name}.bias" in own:
            parts = {"bias": own[f"{name}.bias"]} | parts
        out |= {f"{name}.{part}": value for part, value in parts.items() if value is not None}
    return out
