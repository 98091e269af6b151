"""Where a number comes from: package versions, the commit, the processor."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from harmonica.utils.files import ROOT

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "snakemake")


def versions() -> dict[str, str]:
    """Of Python and of the packages that affect numbers."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def commit() -> str:
    """The checkout's commit, with "+changes" when tracked files differ from it; "unknown" outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    if not (ROOT / ".git").exists():  # installed packages may be in a folder of somebody else's repository
        return "unknown"
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The GPU, if torch is loaded and computes on one, else the processor and the number of usable cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        from harmonica.utils.devices import default_device

        if default_device().type == "cuda":
            return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {usable_cores()} cores"


def usable_cores() -> int:
    """The cores that this process may use; where the system does not say (macOS), all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
