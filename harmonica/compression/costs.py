"""Bit operations: MACs × bits of the weights × bits of the activations. No torch."""

from __future__ import annotations

from harmonica.compression.file import FULL_BITS, Compression, Layer
from harmonica.plan import COMPUTE, BranchLayout, Plan, macs
from harmonica.plan.costs import steps_of_model, steps_without_stream

_KINDS = {
    **dict.fromkeys(("qkv", "proj"), "attention"),
    **dict.fromkeys(("query", "cross_proj"), "cross-attention"),
    **dict.fromkeys(("up", "down", "fc1", "fc2"), "mlp"),
}


def bit_operations(plan: Plan, layout: BranchLayout, compression: Compression | None) -> float:
    """Of the full trajectory of a plan, for one image and one guidance half, from the model's layout. What is not
    quantised, products of two activations among it, has 32 bits."""
    if compression is None:
        return macs(plan, layout) * FULL_BITS**2
    layout = compression.layout_of(layout)
    saved = dict.fromkeys(layout.kinds, 0.0)  # by every branch of a kind; blocks are alike
    in_all = 0.0
    of_model = steps_of_model(plan)
    embedding = of_model - steps_without_stream(plan)
    for name, layer in compression.layers.items():
        kind = next((_KINDS[part] for part in name.split(".") if part in _KINDS), None)
        own = _saved(layer)
        if layer.once:
            in_all += own
        elif kind:
            saved[kind] += own / layout.kinds.count(kind)
        elif name.startswith("modulation."):  # a DiT's, one for each branch
            for each in saved:
                saved[each] += own / len(layout.branches)
        else:
            # a PixArt's modulation serves branches alone; at patches and gates, products of floats, nothing is saved
            in_all += own * (embedding if name == "modulation" else of_model)
    computed = sum((plan.actions[:, i] == COMPUTE).sum() * saved[kind] for i, kind in enumerate(layout.kinds))
    return float(macs(plan, layout) * FULL_BITS**2 - computed - in_all)


def _saved(layer: Layer) -> float:
    return layer.macs * (FULL_BITS**2 - layer.weight_bits * layer.act_bits)
