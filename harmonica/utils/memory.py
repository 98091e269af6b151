"""Peak memory, and a C allocator that keeps freed memory.

glibc returns freed blocks of some hundred kilobytes to the system and requests them again at the next product, page by
page. Whether it does depends on where the heap ends: about one process in five here spent six times as long on every
element-wise operation.
"""

import ctypes
import sys
import threading
from pathlib import Path

from harmonica.utils.errors import UserError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """Serve blocks up to 32 MiB from the heap and give none of it back; without glibc, do nothing."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_TOP_PAD, 64 << 20)


def budget(gib: float | None) -> float | None:
    """Bytes that a job may use: `gib` GiB; without it nine tenths of the GPU's, or None, no limit, on a CPU.

    Raises UserError for a number that is not positive.
    """
    if gib is not None:
        if not 0 < gib < float("inf"):
            raise UserError(f"gpu_memory must be a positive number of GiB, got {gib:g}")
        return gib * 2**30
    import torch

    from harmonica.utils.devices import default_device

    if default_device().type == "cpu":
        return None
    return 0.9 * torch.cuda.get_device_properties(0).total_memory


class Peak:
    """Peak memory in use since its creation: `megabytes()` in MB, above what was in use then.

    On a GPU from torch's allocator. Otherwise this process's allocations, sampled every 5 ms: the system's own peak
    also counts pages of libraries, which are read when they are first used.
    """

    def __init__(self):
        import torch

        self._cuda = torch.cuda if torch.cuda.is_available() else None
        if self._cuda:
            self._cuda.reset_peak_memory_stats()
            self._before = self._cuda.memory_allocated()
            return
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
        if trim is not None:
            trim(0)  # or what was freed before would hide what is used from now on
        self._before = self._most = _allocated()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, _allocated())

    def megabytes(self) -> float:
        """Stops sampling."""
        if self._cuda:
            return max(0, self._cuda.max_memory_allocated() - self._before) / 1e6
        self._done.set()
        return max(0, self._most - self._before) / 1e6


def _allocated() -> int:
    """Anonymous memory of this process in bytes, from /proc; 0 without /proc."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
