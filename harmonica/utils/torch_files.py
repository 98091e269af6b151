"""torch.save files: read with `weights_only` (argparse.Namespace, which training scripts store, is allowed), after the
checksums that torch writes, and does not read, have been compared; our own are written atomically."""

import argparse
import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonica.utils.arrays import of_arrays
from harmonica.utils.errors import UserError
from harmonica.utils.files import refuse_pointer, write_atomic


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors on the host, of any dtype, hexadecimal."""
    return of_arrays({f"{k} {x.dtype} {tuple(x.shape)}": x.contiguous().reshape(-1).view(torch.uint8).numpy()
                      for k, x in tensors.items()})  # fmt: skip


def load_torch(path: str | Path, mmap: bool = False) -> Any:
    """The content of a .pt or .pth file, on the CPU; with `mmap`, tensors are mapped into memory.

    Files in torch's old format, before 1.6, have no checksums. Raises UserError if the file is missing, damaged, a
    Git-LFS pointer, would run code, or has tensors that take more memory than is in the file.
    """
    try:
        refuse_pointer(path)
        with open(path, "rb") as f:
            is_zip = f.read(4) == b"PK\x03\x04"
        if is_zip:
            _check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle protocol before it refuses the file
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
        for x in _tensors(content):
            if (
                x.layout != torch.strided
                or x.device.type != "cpu"
                or x.numel() * x.element_size() > x.untyped_storage().nbytes()
            ):
                raise ValueError(f"a tensor of shape {tuple(x.shape)} is not in it")
        return content
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except pickle.UnpicklingError as e:
        reason = next((x.strip() for x in str(e).splitlines() if "GLOBAL" in x or "global" in x), "not a pickle")
        raise UserError(f"{path} is refused: it has more than tensors and plain data ({reason})") from None
    except MemoryError:
        raise
    except Exception as e:  # parsers of a damaged file raise whatever it makes them think
        why = f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:100]}"
        raise UserError(f"{path} is damaged or was not written by torch.save ({why})") from None


def _check_sums(path: str | Path) -> None:
    """Compare every entry of the archive with its checksum. Raises ValueError, or what zipfile raises."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} differs")


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in dictionaries and lists, at any depth."""
    waiting, seen = [content], set()
    while waiting:
        x = waiting.pop()
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (dict, list, tuple)) and id(x) not in seen:
            seen.add(id(x))
            waiting.extend(x.values() if isinstance(x, dict) else x)


def save_torch(path: str | Path, state) -> None:
    """torch.save, atomically."""
    data = io.BytesIO()
    torch.save(state, data)
    write_atomic(path, data.getvalue())
