"""The C library's allocator, told to keep what is freed.

glibc hands freed blocks of some hundred kilobytes back to the system and asks for them again at the next product, page
by page. Whether it does depends on where the heap happens to end: about one process in five here spent six times as
long on every element-wise operation.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """Serve blocks up to 32 MiB from the heap and keep up to 512 MiB of it; without glibc, do nothing."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 512 << 20)
        mallopt(_TOP_PAD, 64 << 20)
