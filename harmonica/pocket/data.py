"""Fashion-MNIST from its original idx files, padded to 32x32."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from harmonica.errors import UserError

_FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
          "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")}  # fmt: skip


def _read_idx(path: Path) -> np.ndarray:
    try:
        with gzip.open(path) as f:
            _, _, dtype, ndim = struct.unpack(">BBBB", f.read(4))
            if dtype != 8:
                raise ValueError(f"its type is {dtype}")
            shape = struct.unpack(f">{ndim}I", f.read(4 * ndim))
            return np.frombuffer(f.read(), np.uint8).reshape(shape)
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error, ValueError) as e:
        raise UserError(f"{path} is not a whole idx file of unsigned bytes ({e})") from None


def pad_to_32(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28) -> (n, 32, 32), two black pixels on every side."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))


def fashion_mnist(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 28, 28) and labels int64 (n,) of `split` ("train" or "test")."""
    paths = [Path(folder) / name for name in _FILES[split]]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{path} is missing: pass the folder that holds Fashion-MNIST's four .gz files "
                "(Debian package dataset-fashion-mnist, usr/share/datasets/fashion-mnist)"
            )
    images, labels = (_read_idx(p) for p in paths)
    return images, labels.astype(np.int64)


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W) or (n, H, W, C) -> float32 (n, C, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1)
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)


def training_latents(model, vae) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (n, 4, 8, 8), unit variance, by `vae`, and labels (n,) of the training images shipped with `model`.

    Raises UserError for a model that ships none.
    """
    path = model.folder("vae").parent / "train_images.npz"
    if not path.is_file():
        raise UserError(
            f"no training images of {model.title} at hand ({path}); a method that trains on images needs them"
        )
    with np.load(path, allow_pickle=False) as f:
        images, labels = f["images"], torch.from_numpy(f["labels"])
    if images.ndim == 3:  # Fashion-MNIST, as it is
        images = pad_to_32(images)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        parts = [
            vae.encode(to_float(images[i : i + 500]).to(vae.device)).latent_dist.sample(generator).cpu()
            for i in range(0, len(images), 500)
        ]
    return (torch.cat(parts) * vae.config.scaling_factor).clone(), labels
