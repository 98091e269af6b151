"""Units of a transformer that pruning removes: whole heads, and hidden channels of the MLPs. The width of the stream
stays, as residual sums, modulation, position and head depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonica.backbones.base import Backbone
from harmonica.backbones.dit import DiT
from harmonica.plan import BranchLayout


@dataclass(frozen=True)
class Group:
    """A layer's rows or columns that belong to units of a block: `matrices` of `units` consecutive units each."""

    block: int
    kind: str  # "heads", "hidden", or "cross-heads"
    layer: nn.Linear
    name: str
    rows: bool
    matrices: int = 1


# of each layer: its units, whether they are its rows, and how many matrices of units it has
_UNITS = {
    "qkv": ("heads", True, 3), "proj": ("heads", False, 1),
    "query": ("cross-heads", True, 1), "key_value": ("cross-heads", True, 2), "cross_proj": ("cross-heads", False, 1),
    "up": ("hidden", True, 1), "down": ("hidden", False, 1), "fc1": ("hidden", True, 1), "fc2": ("hidden", False, 1),
}  # fmt: skip


def groups(backbone: Backbone) -> Iterator[Group]:
    """Every layer that has units, in the order of modules."""
    seen: dict[str, int] = {}
    for name, module in backbone.named_modules():
        part = next((p for p in name.split(".") if p in _UNITS), None)
        if isinstance(module, nn.Linear) and part is not None and not name.startswith("patch"):
            kind, rows, matrices = _UNITS[part]
            yield Group(seen.setdefault(part, 0), kind, module, name, rows, matrices)
            seen[part] += 1


def heads_of(backbone: Backbone) -> int:
    """Attention heads of a block."""
    return next(n for m in backbone.modules() if isinstance(n := getattr(m, "heads", None), int))


def importance(backbone: Backbone, heads: int) -> dict[tuple[int, str], Tensor]:
    """Σ |w · ∂w| of every unit, by block and kind: (heads,) or (hidden,); the mean over the group's layers.

    The absolute value is inside of the sum (Diff-Pruning, arXiv 2305.10924); gradients have been accumulated.
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    for group in groups(backbone):
        weight = group.layer.weight
        assert weight.grad is not None
        score = (weight.detach() * weight.grad).abs().sum(1 if group.rows else 0)
        score = score.view(group.matrices, -1).sum(0)
        if group.kind != "hidden":
            score = score.view(heads, -1).sum(1)
        found.setdefault((group.block, group.kind), []).append(score)
    return {key: torch.stack(scores).mean(0) for key, scores in found.items()}


def cut(backbone: Backbone, kept: dict[tuple[int, str], Tensor], heads: int) -> None:
    """Leave only the kept units, by block and kind their sorted indices, in every layer."""
    for group in groups(backbone):
        units, layer = kept[group.block, group.kind], group.layer
        total = layer.weight.shape[0 if group.rows else 1] // group.matrices
        each = 1 if group.kind == "hidden" else total // heads
        index = (units[:, None] * each + torch.arange(each, device=units.device)).flatten()
        index = (torch.arange(group.matrices, device=units.device)[:, None] * total + index).flatten()
        layer.weight = nn.Parameter(layer.weight.detach().index_select(0 if group.rows else 1, index).clone())
        if group.rows:
            layer.out_features = len(index)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.detach()[index].clone())
        else:
            layer.in_features = len(index)
    left = len(kept[0, "heads"])
    for module in backbone.modules():
        if isinstance(getattr(module, "heads", None), int):
            vars(module)["heads"] = left


def pruned_layout(layout: BranchLayout, heads: float, hidden: float, modulation: float, once: float) -> dict[str, Any]:
    """The fields of a layout that change if these shares of heads and hidden channels are left.

    `modulation` MACs of every branch stay; `once` are the MACs per trajectory that shrink with the heads.
    """
    shares = [hidden if kind == "mlp" else heads for kind in layout.kinds]
    own = [(m - modulation) * r + modulation for m, r in zip(layout.branch_macs.tolist(), shares, strict=True)]
    return {
        "branch_macs": own, "attention_macs": layout.attention_macs * heads,
        "once_macs": layout.once_macs - once * (1 - heads),
    }  # fmt: skip


def modulation_macs(backbone: Backbone) -> float:
    """MACs of shift and scale in each branch: a DiT's are computed with the branch."""
    return 2.0 * backbone.width**2 if isinstance(backbone, DiT) else 0.0
