"""Pictures as arrays: what counts as one, how it is read, padding, and the range that networks take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harmonica.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
PLAIN = ("1", "L", "RGB", "CMYK", "YCbCr", "HSV", "LAB")  # modes of 8 bits that Pillow converts to RGB rightly


def visible(paths: Iterable[Path]) -> list[Path]:
    """Those that are not hidden and not what macOS or a notebook left, in the order of their names."""
    return sorted(p for p in paths if not p.name.startswith(".") and p.name != "__MACOSX")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its visible subfolders, ordered by path."""
    own = visible(folder.iterdir())
    found = [p for p in own if p.suffix.lower() in PICTURES and p.is_file()]
    return sorted(found + [q for p in own if p.is_dir() for q in pictures_in(p)])


def read_picture(path: Path) -> Image:
    """A picture file as RGB: 16 bits are scaled to 8, transparent pixels are put on white.

    Raises UserError if it is damaged, too large to be a picture, or of another mode.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
            return _rgb(opened, path)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        raise UserError(f"{path} is a damaged picture ({type(e).__name__}: {e})") from None


def _rgb(picture: Image, path: Path) -> Image:
    from PIL import Image

    clear = picture.info.get("transparency")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UserError(f"{path} has numbers outside 16 bits: convert it to 8 bits first")
        if clear is not None:  # a grey that is transparent
            pixels = np.where(pixels == clear, 65535, pixels)
        return Image.fromarray((pixels / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        own = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own).convert("RGB")
    if picture.mode == "P" or picture.mode in PLAIN:
        return picture.convert("RGB")
    raise UserError(f"{path} has the mode {picture.mode}, which is not a picture of 8 or 16 bits")


def pad_to_32(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28) -> (n, 32, 32), two black pixels on every side."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))


def to_float(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W) or (n, H, W, C) -> float32 (n, C, H, W) in [-1, 1]."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1)
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
