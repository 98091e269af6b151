"""Files and hashes: atomic writes, and short digests of what a result depends on."""

import glob
import hashlib
import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from harmonica.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = PACKAGE.parent
POCKET = PACKAGE / "pocket"  # the shipped models
WORKFLOW = ROOT / "workflow"  # beside the packages, in a checkout as where they are installed
LARGEST_JSON = 1 << 28  # bytes; a parsed file takes several times as many
SAMPLING = ("plan", "samplers", "backbones", "execution")  # the packages that, with the weights, affect pixels


def weights_folder() -> Path:
    """Where downloaded weights, and files computed once from them, are stored: $HARMONICA_WEIGHTS, or `weights/` in the
    checkout, or of an installed package in the current folder."""
    here = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("HARMONICA_WEIGHTS", here / "weights"))


def digest(obj: Any) -> str:
    """Twelve hex digits of the canonical JSON of an object."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:12]


def content_hash(*files: str | Path) -> str:
    """Twelve hex digits over names and contents of files, in any order."""
    h = hashlib.sha256()
    for path in sorted(map(Path, files)):
        h.update(path.name.encode() + b"\0")
        with open(path, "rb") as f:
            while block := f.read(1 << 22):  # weights may be larger than what is free of memory
                h.update(block)
    return h.hexdigest()[:12]


@cache
def source_hash(*parts: str) -> str:
    """Twelve hex digits over the Python code of folders of the `harmonica` package, as this process first finds it: the
    rerun trigger of a job.

    A part is a subpackage or a module of it ("plan", "evaluation/latency.py"), or an absolute path.
    """
    paths = [PACKAGE / part for part in parts]
    return content_hash(*(f for p in paths for f in (p.rglob("*.py") if p.is_dir() else [p])))


def file_hash(path: str | Path) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file that takes its final name only when it is complete and on the disk; what a killed process of this
    machine left of an earlier attempt is removed. Raises OSError that names the file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    host = platform.node()
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(host)}-*"):
        if not _is_alive(left.name.rpartition("-")[2]):
            left.unlink(missing_ok=True)
    tmp = path.with_name(f".{path.name}.{host}-{os.getpid()}")
    try:
        with open(tmp, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        if e.filename is None and e.errno is not None:  # a full disk, which Python reports without a name
            e.filename = str(path)
        raise
    finally:
        tmp.unlink(missing_ok=True)


def _is_alive(pid: str) -> bool:
    """Whether a process of this machine has this number; True for what is no number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (ValueError, PermissionError):
        return True
    return True


def read_json(path: str | Path, what: str, finite: bool = True) -> Any:
    """The content of a JSON file; with `finite`, NaN and infinities are refused. Raises UserError, with the file's
    name, if it is missing or not complete JSON; `what` says what it should be."""

    def refused(constant: str):
        raise ValueError(f"it has {constant}")

    try:
        if Path(path).stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON >> 20} MiB")
        return json.loads(Path(path).read_text("utf-8"), parse_constant=refused if finite else None)
    except FileNotFoundError:
        raise UserError(f"No such file: {path}, which should be {what}") from None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path} is not {what} ({type(e).__name__}: {str(e).splitlines()[0]})") from None


def refuse_pointer(path: str | Path) -> None:
    """Raise UserError if a file is a Git-LFS pointer, as a clone without LFS leaves it in place of a large file."""
    with open(path, "rb") as f:
        if f.read(24) == b"version https://git-lfs.":
            raise UserError(f"{path} is a Git-LFS pointer, not the file itself: run `git lfs pull` where it came from")


def write_json(path: str | Path, obj: Any) -> None:
    """Write an object as indented JSON, atomically."""
    write_atomic(path, json.dumps(obj, indent=1) + "\n")
