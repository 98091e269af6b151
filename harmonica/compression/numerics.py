"""Uniform integer grids: quantisation with gradients, start ranges, and two 4-bit integers in a byte.

An integer of b bits is in [−2^(b−1), 2^(b−1) − 1] and stands for (q − zero) · scale. Zero points need not be integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 80  # shrunken ranges that `best_range` tries
SMALLEST = 1e-8  # a scale, so that a channel of zeros does not divide by 0


def bounds(bits: int) -> tuple[int, int]:
    """The lowest and the highest integer of a grid."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def to_grid(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The integers of x, in its own dtype; scale and zero point broadcast to it."""
    return (x / scale + zero).round().clamp(*bounds(bits))


def from_grid(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What integers stand for."""
    return (q - zero) * scale


def straight_through(x: Tensor) -> Tensor:
    """x rounded, with the gradient of x."""
    return x + (x.round() - x).detach()


def fake(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """x through the grid. Rounding has the gradient of the identity; clipping has its own, so that scale and zero point
    get gradients where values are clipped (EfficientDM, arXiv 2310.03270)."""
    q = straight_through(x / scale + zero).clamp(*bounds(bits))
    return from_grid(q, scale, zero)


def of_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale, and an integer zero point, of the grid over [low, high], which is widened to include 0."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    first, last = bounds(bits)
    scale = ((high - low) / (last - first)).clamp(min=SMALLEST)
    return scale, (first - low / scale).round()


def min_max(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points (N, 1) of the rows of a weight (N, …), from their extremes."""
    rows = x.flatten(1)
    return of_range(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), bits)


def best_range(x: Tensor, bits: int, power: float = 2.4, by_row: bool = False) -> tuple[Tensor, Tensor]:
    """Scale and zero point, () or for a weight's rows (N, 1), of the shrunken range with the least mean |error|^power.

    The start of activations in EfficientDM (power 2.4), and of weights in PTQ4DiT (2).
    """
    rows = x.flatten(1) if by_row else x.reshape(1, -1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    best: Tensor | None = None
    for k in range(CANDIDATES):
        share = 1 - k / CANDIDATES
        scale, zero = of_range(low * share, high * share, bits)
        error = (from_grid(to_grid(rows, scale, zero, bits), scale, zero) - rows).abs().pow(power).mean(1, keepdim=True)
        if best is None:
            best, found = error, (scale, zero)
        better = error < best
        best = torch.where(better, error, best)
        found = torch.where(better, scale, found[0]), torch.where(better, zero, found[1])
    return found if by_row else (found[0].squeeze(), found[1].squeeze())


def pack(integers: Tensor) -> Tensor:
    """4-bit integers int8 (N, K) as uint8 (N, ⌈K/2⌉): the even columns in the low bits."""
    if integers.shape[1] % 2:
        integers = torch.nn.functional.pad(integers, (0, 1))
    low, high = (integers[:, k::2].to(torch.int16) + 8 for k in (0, 1))
    return (low + 16 * high).to(torch.uint8)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """The inverse of `pack`, for K = `columns`."""
    both = packed.to(torch.int16)
    return (torch.stack([both % 16, both // 16], 2).flatten(1)[:, :columns] - 8).to(torch.int8)
