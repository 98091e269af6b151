"""Salience balancing (PTQ4DiT, arXiv 2405.16005): moving the range of an activation's channels into the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harmonica.backbones.base import Backbone
from harmonica.backbones.dit import DiT
from harmonica.backbones.uvit import UViT
from harmonica.compression.places import linear_of


def ranks(x: Tensor) -> Tensor:
    """The rank of every value of the rows of x (…, K)."""
    return x.argsort(-1).argsort(-1).to(x.dtype)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation (S,) of the rows of x (S, K) with y (K,)."""
    a, b = (r - r.mean(-1, keepdim=True) for r in (ranks(x), ranks(y)))
    return (a @ b) / (a.norm(dim=-1) * b.norm())


def balance_of(largest: Tensor, weight: Tensor) -> Tensor:
    """B (K,), by which an input is divided and its weight (N, K) multiplied.

    `largest` (S, K) is the greatest magnitude of each sample's channels. Samples count by softmax(−ρ), ρ their rank
    correlation with the weight's salience: those that complement it count most. B = √(salience of the input / of the
    weight).
    """
    of_weight = weight.float().abs().amax(0)
    shares = torch.softmax(-spearman(largest, of_weight), 0)
    found = ((shares @ largest) / of_weight).sqrt()
    return torch.where(torch.isfinite(found) & (found > 0), found, torch.ones_like(found))


def balanced(name: str) -> bool:
    """Whether a layer of that name is balanced: qkv, the projection after attention, the first of an MLP."""
    return {*name.split(".")} & {"qkv", "proj", "up", "fc1"} != set() and not name.startswith("patch")


@torch.no_grad()
def fold(backbone: Backbone, name: str, factors: Tensor) -> bool:
    """Divide the input of a layer by `factors` (K,), in what computes it, and multiply its weight. False where nothing
    before it can take them, as PixArt's modulation, which all blocks share: then its input has to be divided."""
    layer = linear_of(backbone, name)
    layer.weight.mul_(factors.to(layer.weight.dtype))
    if {*name.split(".")} & {"proj"}:  # its input is linear in the values of attention
        values = linear_of(backbone, name.replace("proj", "qkv"))
        _divide_rows(values, slice(2 * len(factors), None), factors)
        return True
    if isinstance(backbone, DiT):
        block = int(name.rpartition(".")[2])
        source, D = linear_of(backbone, f"modulation.{2 * block + name.startswith('up')}"), len(factors)
        source.bias[D:] += 1  # of 1 + scale, which is divided as a whole
        _divide_rows(source, slice(None), factors.repeat(2))
        source.bias[D:] -= 1
        return True
    if isinstance(backbone, UViT):
        block_name = name.rpartition(".")[0].rpartition(".")[0]
        norm = "norm1" if name.endswith("qkv") else "norm2"
        for p in backbone.get_submodule(f"{block_name}.{norm}").parameters():
            p.div_(factors.to(p.dtype))
        return True
    return False


def _divide_rows(layer: nn.Linear, rows: slice, factors: Tensor) -> None:
    layer.weight[rows] /= factors[:, None].to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias[rows] /= factors.to(layer.bias.dtype)
