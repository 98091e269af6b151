"""The files of the shipped models: each has the sha256 that is recorded in `harmonica/pocket/checksums.json`, or is
refused."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harmonica.utils import POCKET, UserError, file_hash
from harmonica.utils.records import Record

RECORD = POCKET / "checksums.json"
# what is loaded, in the folder of a model
LOADED = ("transformer/*", "vae/*", "text_encoder/*", "tokenizer/*", "classifier/*", "clip/*", "*.npz", "captions.csv")


@dataclass(frozen=True)
class Checksums(Record):
    """sha256 of files, by their path below the folder of shipped models."""

    kind = "the record of checksums"
    properties = {"files": {"type": "object", "additionalProperties": {"type": "string"}}}
    files: dict[str, str]


@cache
def _recorded() -> dict[str, str]:
    return Checksums.load(RECORD).files


@cache
def _hash(path: Path, changed_ns: int, size: int) -> str:
    return file_hash(path)


def verified(path: Path) -> Path:
    """The path itself, of any file. Raises UserError if it is a shipped file with another content than the shipped."""
    if POCKET in path.parents and path.is_file():
        name, about = str(path.relative_to(POCKET)), path.stat()
        expected = _recorded().get(name)
        if expected and _hash(path, about.st_mtime_ns, about.st_size) != expected:
            raise UserError(f"{path} is damaged: its sha256 is not the recorded one; `git checkout {path}` restores it")
    return path


def verified_folder(folder: Path) -> Path:
    """The folder itself, with every file in it verified."""
    for path in sorted(folder.iterdir()):
        verified(path)
    return folder


def record() -> None:
    """Write the checksums of the shipped files as they are now, after a model was made anew."""
    found = sorted(p for pattern in LOADED for p in POCKET.glob(f"*/{pattern}") if p.is_file())
    Checksums({str(p.relative_to(POCKET)): file_hash(p) for p in found}).save(RECORD)
    _recorded.cache_clear()
