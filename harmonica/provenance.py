"""What a result depends on, in a form that can be compared: source files, package versions, the machine."""

import hashlib
import io
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLING_SOURCES = tuple(
    f"harmonica/{f}.py"
    for f in (
        "backbones/dit", "backbones/parts", "backbones/pixart", "backbones/uvit", "dpm_solver", "executor", "plan",
        "samplers", "sampling", "schedulers",
    )
)  # fmt: skip
PACKAGES = ("torch", "diffusers", "numpy", "scipy", "snakemake")


def weights_folder() -> Path:
    """Where downloaded weights and what is computed from them once lie: `weights/` or $HARMONICA_WEIGHTS."""
    return Path(os.environ.get("HARMONICA_WEIGHTS", ROOT / "weights"))


def digest(obj: Any) -> str:
    """Twelve hex digits of a JSON-able object's canonical form."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:12]


def source_hash(*files: str) -> str:
    """Twelve hex digits over source files, named from the repository root (or by absolute paths)."""
    h = hashlib.sha256()
    for path in sorted(ROOT / name for name in files):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()[:12]


def file_hash(path: str | Path) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def commit() -> str:
    """The checkout's commit, with "+changes" when tracked files differ from it; "unknown" outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The processor (or GPU, where torch is loaded and sees one) and how many cores may be used."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file that takes its name only when it is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        tmp.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def write_npz(path: str | Path, **arrays) -> None:
    """Write arrays, compressed, whole or not at all."""
    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())
