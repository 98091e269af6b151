"""torch.save files: outside ones are read with `weights_only` (argparse.Namespace, which training scripts store, is
allowed); our own are written atomically."""

import argparse
import io
import pickle
import struct
import warnings
from pathlib import Path

import torch

from harmonica.utils.errors import UserError
from harmonica.utils.files import refuse_pointer, write_atomic

# what torch raises for a file with missing or flipped bytes: zip directory, pickle opcodes and sizes may be anything
_DAMAGED = (
    RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, MemoryError,
    AssertionError, struct.error,
)  # fmt: skip


def load_torch(path: str | Path):
    """The content of a .pt or .pth file, on the CPU. Raises UserError if it is missing, damaged, a Git-LFS pointer, or
    would run code."""
    try:
        refuse_pointer(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle protocol before it refuses the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except pickle.UnpicklingError as e:
        reason = next((x.strip() for x in str(e).splitlines() if "GLOBAL" in x or "global" in x), "not a pickle")
        raise UserError(f"{path} is refused: it has more than tensors and plain data ({reason})") from None
    except _DAMAGED as e:
        raise UserError(f"{path} is damaged or was not written by torch.save ({type(e).__name__})") from None


def save_torch(path: str | Path, state) -> None:
    """torch.save, atomically."""
    data = io.BytesIO()
    torch.save(state, data)
    write_atomic(path, data.getvalue())
