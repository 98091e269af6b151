"""The GPUs of this machine, for jobs that run side by side: each takes free ones and sees no others.

A device is taken by locking a file named by its UUID. The system frees a lock when its process ends, however it ends,
so a killed job leaves nothing to clean up. Call before torch is loaded, which reads CUDA_VISIBLE_DEVICES once.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harmonica.utils.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
REQUESTED = "HARMONICA_GPUS"  # set by the workflow: how many GPUs a command takes
_TAKEN = "HARMONICA_GPUS_TAKEN"  # by this process, or by the one that shares its work
POLL_S = 1.0


def found() -> list[str]:
    """UUIDs of the GPUs that this process may use: those of nvidia-smi, or of them those in CUDA_VISIBLE_DEVICES, as a
    cluster's scheduler sets it. Empty without a driver."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    uuids = dict(line.replace(" ", "").split(",") for line in done.stdout.splitlines() if "," in line)
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return list(uuids.values())
    return [uuids.get(name.strip(), name.strip()) for name in visible.split(",") if name.strip() not in ("", "-1")]


def take_requested() -> None:
    """Take as many GPUs as HARMONICA_GPUS says, for as long as this process lives; wait while too few are free.

    Its other children inherit them. Does nothing without a driver: whether a GPU is needed is up to the job. Raises
    UserError for what is no number, or more than this machine has.
    """
    text = os.environ.pop(REQUESTED, "0")
    if not text.isdecimal():
        raise UserError(f"{REQUESTED} must be a number of GPUs, got {text!r}")
    count, devices = int(text), found() if int(text) else []
    if not devices:
        return
    if count > len(devices):
        raise UserError(f"a job needs {count} GPUs and this machine has {len(devices)}: run with --resources gpu=1")
    os.environ[VISIBLE] = ",".join(_take(count, devices))
    os.environ[_TAKEN] = str(count)


def taken() -> int:
    """GPUs that this command has taken."""
    return int(os.environ.get(_TAKEN, 0))


def _take(count: int, devices: list[str]) -> list[str]:
    """Lock `count` of the devices."""
    folder = Path(tempfile.gettempdir()) / f"harmonica-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    waiting = False
    while True:
        taken: dict[str, int] = {}
        for device in devices:
            lock = _locked(folder / device.replace("/", "-"))
            if lock is not None:
                taken[device] = lock
            if len(taken) == count:
                for lock in taken.values():
                    os.set_inheritable(lock, True)  # a training over several GPUs continues as torchrun
                return list(taken)
        for lock in taken.values():  # or two jobs that need two could each keep one
            os.close(lock)
        if not waiting:
            print(f"waiting for {count} of {len(devices)} GPUs", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_S)


def _locked(path: Path) -> int | None:
    """The descriptor of the file, locked; None if another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
