"""Caption lists: files identified by sha256.

The first captions of a list are, in order, those of the tables' images; of the others, the next TRAINING_CAPTIONS are
for training routers.
"""

import csv
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harmonica.models.shipped import verified
from harmonica.utils import UserError, file_hash, weights_folder, write_atomic

SHARD = 500  # captions in one file of embeddings
TRAINING_CAPTIONS = 4096  # at most so many of the others are embedded


@dataclass(frozen=True)
class CaptionList:
    """A file of captions: one per line, or for .csv the column `caption`. `sha256` is "" if it is not pinned."""

    name: str
    file: str  # a path, or a name among the downloaded weights
    images: int  # leading captions, for tables
    sha256: str = ""

    @property
    def path(self) -> Path:
        return weights_folder() / self.file  # an absolute path stays as it is

    def read(self) -> list[str]:
        """All captions. Raises UserError if the file is missing, is not the pinned one, or has too few."""
        if not self.path.is_file():
            raise UserError(f"{self.path} (the captions {self.name}) is missing: see `harmonica captions --help`")
        if self.sha256 and self.hash != self.sha256:
            raise UserError(f"{self.path} is not the list {self.name}: its sha256 begins with {self.hash[:12]}")
        captions = read_captions(verified(self.path))
        if len(captions) <= self.images:
            raise UserError(
                f"{self.path} has {len(captions)} captions: {self.images} are for tables, none is left to train with"
            )
        return captions

    @cached_property
    def hash(self) -> str:
        return file_hash(self.path)


def read_captions(path: Path) -> list[str]:
    """The captions in a file: one per line, or for .csv the column `caption`. Raises UserError for a file that is
    missing or has none."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start}): convert it") from None
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl", ".tsv", ".parquet"):
        raise UserError(f"{path} is not a list of captions: one per line (.txt), or a .csv with a column `caption`")
    if suffix != ".csv":  # a caption may have any other separator of lines, such as U+2028
        return [line for line in text.split("\n") if line.strip()]
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "caption" not in (rows.fieldnames or ()):
            raise UserError(f"{path} has no column `caption`")
        found = [row["caption"] for row in rows]
    except csv.Error as e:
        raise UserError(f"{path} is not CSV (line {rows.line_num}: {e})") from None
    empty = [k for k, caption in enumerate(found, 1) if not (caption or "").strip()]
    if empty:
        raise UserError(f"{path} has no caption in row {empty[0]}: the row ends before that column, or is empty there")
    return found


def write_coco(annotations: Path, out: Path, seed: int = 0) -> int:
    """Make the list of MS-COCO 2014 from `captions_val2014.json`: one caption per image in a random order of fixed
    seed, so that the first 30 000 are those of the usual protocol, then the other captions. Returns their number.

    Raises UserError if the file is not COCO's.
    """
    import numpy as np

    try:
        found = json.loads(annotations.read_text("utf-8"))["annotations"]
        by_image: dict[int, list[tuple[int, str]]] = {}
        for a in found:
            by_image.setdefault(int(a["image_id"]), []).append((int(a["id"]), " ".join(a["caption"].split())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise UserError(f"{annotations} is not COCO's file of captions ({type(e).__name__}: {e})") from None
    rng = np.random.default_rng(seed)
    images = rng.permutation(sorted(by_image)).tolist()
    first = {i: min(by_image[i]) for i in images}
    rest = [c for i in images for c in sorted(by_image[i]) if c != first[i]]
    order = rng.permutation(len(rest)).tolist()
    captions = [first[i][1] for i in images] + [rest[k][1] for k in order]
    write_atomic(out, "\n".join(captions) + "\n")
    return len(captions)
