"""Whether another run of the workflow is alive in a folder, so that a killed one leaves nothing to unlock.

Snakemake's locks are files that a killed process leaves behind. The kernel's own lock ends with its process: every run
shares one, and who can have it alone knows that all other runs have ended.
"""

import fcntl
import os
import platform
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from pathlib import Path

_held: list[int] = []  # the lock lasts as long as its file is open
_alone: set[Path] = set()  # folders in which no other run was alive at the start


def begin(folder: Path, may_remove: bool) -> None:
    """Hold the lock of a Snakemake folder until the process ends.

    If no other run is alive and `may_remove`, what killed runs of this machine have left locked is removed. Does
    nothing where files cannot be locked."""
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / "harmonica.lock", os.O_RDWR | os.O_CREAT, 0o666)
        _held.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            if may_remove:
                _alone.add(folder)
                _remove_stale(folder / "locks", lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:
        pass


def forget_incomplete(folder: Path, files: Iterable[str]) -> None:
    """Remove Snakemake's marks, of a killed run, that these files are incomplete. They are complete if they are there,
    and what is marked is made again by force, where Snakemake overlooks what depends on it by `ancient`."""
    complete = set(files)
    for path in (folder / "incomplete").rglob("*") if folder in _alone else ():
        name = "".join(part.removeprefix("@") for part in path.relative_to(folder / "incomplete").parts)
        try:
            marked = path.is_file() and urlsafe_b64decode(name).decode() in complete
        except ValueError:
            continue
        if marked:
            path.unlink(missing_ok=True)


def _remove_stale(locks: Path, lock: int) -> None:
    """Where a file system does not share locks between machines, another one's run may be alive."""
    host, left = platform.node().encode(), list(locks.glob("*"))
    if left and os.pread(lock, 1000, 0) != host:
        return
    for path in left:
        path.unlink(missing_ok=True)
    os.ftruncate(lock, 0)
    os.pwrite(lock, host, 0)
