"""Fashion-MNIST from its original idx files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from harmonica.utils import UserError

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
        raise UserError(f"{path} is not a complete idx file of unsigned bytes ({e})") from None


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
