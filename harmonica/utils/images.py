"""Pictures as arrays: what counts as one, padding, and the range that networks take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def pad_to_32(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28) -> (n, 32, 32), two black pixels on every side."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))


def to_float(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W) or (n, H, W, C) -> float32 (n, C, H, W) in [-1, 1]."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1)
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
