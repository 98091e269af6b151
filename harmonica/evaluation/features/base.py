"""The features of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


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
