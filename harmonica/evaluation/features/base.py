"""The features of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harmonica.utils import UserError


@dataclass(frozen=True, eq=False)
class Features:
    """Features of n images: pooled for FID, precision and recall, spatial for sFID, logits for IS."""

    pooled: np.ndarray  # (n, d)
    spatial: np.ndarray  # (n, d_s)
    logits: np.ndarray  # (n, classes)

    @staticmethod
    def join(parts: Iterable[Features]) -> Features:
        """The features of all parts, in their order."""
        parts = list(parts)
        return Features(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("pooled", "spatial", "logits")))


def check_images(images: np.ndarray, network: str, channels: int, side: int | None = None) -> None:
    """Raise UserError unless a network takes images uint8 (n, H, W) or (n, H, W, C) of this shape."""
    found, size = (1 if images.ndim == 3 else images.shape[3]), images.shape[1:3]
    if found != channels or side not in (None, size[0]) or side not in (None, size[1]):
        wanted = f"{side}×{side} with " if side else ""
        raise UserError(
            f"{network} takes images of {wanted}{channels} channel{'s' * (channels > 1)}, got {size[0]}×{size[1]} with "
            f"{found}: they are of another model"
        )
