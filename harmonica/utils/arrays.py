"""npz files that carry a checksum of their arrays, and a reader that compares sizes before it takes memory."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from harmonica.utils.errors import UserError
from harmonica.utils.files import write_atomic

CHECKSUM = "sha256"  # the array with the checksum of the others
# What arrays may take in memory: bytes, or multiples of the file's size. Features of images that are alike are
# compressed 4 times, a bomb 1000 times.
SMALL, RATIO = 1 << 28, 50


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, shapes and bytes of arrays, hexadecimal."""
    h = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        h.update(f"{name} {x.dtype.str} {x.shape} ".encode())
        h.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def write_npz(path: str | Path, arrays: Mapping[str, Any], compressed: bool = True) -> None:
    """Write arrays with their checksum, atomically."""
    data = io.BytesIO()
    content = {k: np.asarray(x) for k, x in arrays.items()}
    content[CHECKSUM] = np.array(of_arrays(content))
    if compressed:
        np.savez_compressed(data, allow_pickle=False, **content)
    else:
        np.savez(data, allow_pickle=False, **content)
    write_atomic(path, data.getvalue())


class Form(NamedTuple):
    """What an array of a file must be: numpy's kinds of its type ("f", "iu", "U"), and its numbers of dimensions."""

    kinds: str
    ndims: tuple[int, ...]


def read_npz(
    path: str | Path, what: str, forms: Mapping[str, Form], optional: Collection[str] = (), own: bool = True
) -> dict[str, np.ndarray]:
    """The arrays of a file that `write_npz` wrote: all of `forms` but maybe the `optional` ones; of another program's
    file, not `own`, those that are named, without a checksum.

    Sizes are compared with the file's before memory is taken. Raises UserError, which says that the file is not `what`,
    if it is missing, damaged, has other arrays, or no checksum.
    """
    try:
        size = Path(path).stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            if own and CHECKSUM not in entries:
                raise ValueError("it has no checksum: an older version wrote it, or another program")
            forms = dict(forms) | ({CHECKSUM: Form("U", (0,))} if own else {})
            lacking = forms.keys() - set(optional) - entries.keys()
            if lacking or (own and entries.keys() - forms.keys()) or len(archive.infolist()) > len(entries):
                raise ValueError(f"it has the arrays {', '.join(sorted(entries))}")
            wanted = {k: i for k, i in entries.items() if k in forms}
            headers = {k: _header(archive, entry, forms[k]) for k, entry in wanted.items()}
            if sum(h.bytes for h in headers.values()) > max(SMALL, RATIO * size):
                raise ValueError(f"its arrays would take {sum(h.bytes for h in headers.values()) / 2**30:.1f} GiB")
    except OSError as e:
        raise UserError(f"{path} is not {what} ({type(e).__name__}: {e.strerror or e})") from None
    except Exception as e:  # parsers of a damaged file raise whatever it makes them think
        raise UserError(f"{path} is not {what} ({type(e).__name__}: {_first_line(e)})") from None
    try:
        arrays = {k: np.empty(h.shape, h.dtype, "F" if h.fortran else "C") for k, h in headers.items()}
        with zipfile.ZipFile(path) as archive:
            for name, entry in wanted.items():
                _fill(arrays[name], archive, entry)
    except MemoryError:
        raise
    except Exception as e:
        raise UserError(f"{path} is not {what} ({type(e).__name__}: {_first_line(e)})") from None
    if own and str(arrays.pop(CHECKSUM)) != of_arrays(arrays):
        raise UserError(f"{path} is not {what} as it was written: its checksum differs")
    return arrays


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    bytes: int


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, form: Form) -> _Header:
    with archive.open(entry) as f:
        shape, fortran, dtype = _read_header(f)
        begins = f.tell()
    size = dtype.itemsize
    for n in shape:
        size *= n
    if dtype.hasobject or not dtype.itemsize or dtype.kind not in form.kinds or len(shape) not in form.ndims:
        raise ValueError(f"{entry.filename} is of type {dtype} and shape {shape}")
    if min(shape, default=0) < 0 or begins + size != entry.file_size:
        raise ValueError(f"{entry.filename} has {entry.file_size} bytes, and its shape is {shape}")
    return _Header(shape, fortran, dtype, size)


def _read_header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(f)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(f)
    return np.lib.format.read_array_header_2_0(f)


def _fill(array: np.ndarray, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read an array's bytes to the end, where zipfile compares its own checksum."""
    flat = array.reshape(-1, order="A").view(np.uint8).data
    with archive.open(entry) as f:
        _read_header(f)
        at = 0
        while block := f.read(1 << 24):
            flat[at : at + len(block)] = block
            at += len(block)


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [""])[0][:200]


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write an array as .npy, followed by the sha256 of that, atomically; it can be mapped into memory."""
    data = io.BytesIO()
    np.save(data, array)
    write_atomic(path, data.getvalue() + hashlib.sha256(data.getvalue()).digest())


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a file that `write_npy` wrote, mapped into memory after its bytes were compared with their checksum.

    Raises UserError if the file is missing or damaged."""
    try:
        h, left = hashlib.sha256(), Path(path).stat().st_size - hashlib.sha256().digest_size
        with open(path, "rb") as f:
            while left > 0 and (block := f.read(min(left, 1 << 24))):
                h.update(block)
                left -= len(block)
            if left or f.read() != h.digest():
                raise UserError(f"{path} is damaged: its checksum differs")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is damaged ({type(e).__name__}: {_first_line(e)})") from None
