"""Caption lists, and their text embeddings: computed once by the text encoder, kept on disk in shards, read row by row.

A list is a file, known by its sha256. Its first captions are those that tables draw images for, one after the other;
the rest is for training routers. The embeddings lie in `embeddings/` beside the downloaded weights, in a folder named
after all that decides them, so that samplers and router training never load the text encoder.
"""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harmonica.errors import UserError
from harmonica.provenance import digest, file_hash, weights_folder, write_whole

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 500  # captions


@dataclass(frozen=True)
class CaptionList:
    """A file of captions: a line each, or for .csv the column `caption`. `sha256` is "" where it is not pinned."""

    name: str
    file: str  # a path, or a name among the downloaded weights
    drawn: int  # the first so many are for tables
    sha256: str = ""

    @property
    def path(self) -> Path:
        return weights_folder() / self.file  # an absolute path stays as it is

    def read(self) -> list[str]:
        """All captions. Raises UserError when the file is missing, is not the pinned one, or has too few."""
        if not self.path.is_file():
            raise UserError(f"{self.path} (the captions {self.name}) is missing: see `harmonica captions --help`")
        if self.sha256 and self.hash != self.sha256:
            raise UserError(f"{self.path} is not the list {self.name}: its sha256 begins with {self.hash[:12]}")
        text = self.path.read_text()
        rows = csv.DictReader(text.splitlines()) if self.path.suffix == ".csv" else None
        captions = [row["caption"] for row in rows] if rows else [line for line in text.split("\n") if line.strip()]
        if len(captions) <= self.drawn:
            raise UserError(f"{self.path} has {len(captions)} captions: {self.drawn} are for tables, and none is left")
        return captions

    @cached_property
    def hash(self) -> str:
        return file_hash(self.path)


def write_coco(annotations: Path, out: Path, seed: int = 0) -> int:
    """Make the list of MS-COCO 2014 from `captions_val2014.json`: one caption an image, in an order drawn once, so that
    the first 30 000 are the common protocol's; the other captions follow. Returns their number.

    Raises UserError when the file is not COCO's.
    """
    import numpy as np

    try:
        found = json.loads(annotations.read_text())["annotations"]
        by_image: dict[int, list[tuple[int, str]]] = {}
        for a in found:
            by_image.setdefault(int(a["image_id"]), []).append((int(a["id"]), " ".join(a["caption"].split())))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{annotations} is not COCO's file of captions ({type(e).__name__}: {e})") from None
    rng = np.random.default_rng(seed)
    images = rng.permutation(sorted(by_image)).tolist()
    first = {i: min(by_image[i]) for i in images}
    rest = [c for i in images for c in sorted(by_image[i]) if c != first[i]]
    order = rng.permutation(len(rest)).tolist()
    captions = [first[i][1] for i in images] + [rest[k][1] for k in order]
    write_whole(out, "\n".join(captions) + "\n")
    return len(captions)


@dataclass(frozen=True)
class CaptionsInMemory:
    """Embeddings (n + 1, L, C) and masks (n + 1, L) of n captions, the null prompt last; all are to be drawn."""

    embeddings: "Tensor"
    mask: "Tensor"

    def __len__(self) -> int:
        return len(self.embeddings) - 1

    @property
    def drawn(self) -> int:
        return len(self)

    def __call__(self, labels: "Tensor") -> tuple["Tensor", "Tensor"]:
        labels = labels.to(self.embeddings.device)
        return self.embeddings[labels], self.mask[labels]


class EmbeddedCaptions:
    """The embeddings of a list, on disk. Called with labels (B,), it reads those rows."""

    def __init__(self, folder: Path, drawn: int):
        self.folder, self.drawn = folder, drawn
        try:
            self._count = int(json.loads((folder / "index.json").read_text())["captions"])
        except (OSError, ValueError, KeyError) as e:
            raise UserError(f"{folder} does not hold embedded captions ({type(e).__name__})") from None
        self._open: dict[int, object] = {}

    def __len__(self) -> int:
        return self._count

    def __call__(self, labels: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Embeddings (B, L, C) and mask (B, L); the label `len(self)` is the null prompt."""
        import torch

        rows = {k: self._row(k) for k in set(labels.tolist())}
        embeddings, masks = zip(*(rows[k] for k in labels.tolist()), strict=True)
        return torch.stack(embeddings), torch.stack(masks)

    def _row(self, label: int) -> tuple["Tensor", "Tensor"]:
        from safetensors import SafetensorError, safe_open

        shard, k = divmod(label, SHARD)
        path = self.folder / _shard_name(shard)
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(path, "pt").__enter__()
            f = self._open[shard]
            return f.get_slice("embeddings")[k], f.get_slice("mask")[k]
        except (OSError, SafetensorError, IndexError) as e:
            raise UserError(f"{path} is damaged ({e}): delete {self.folder} and run again") from None


def _shard_name(k: int) -> str:
    return f"{k:05d}.safetensors"


def embeddings_folder(model) -> Path:
    """Where the embeddings of this model's captions lie: named after the list, the encoder and the length."""
    key = digest([model.captions.hash, model.text_encoder_fingerprint, model.text_tokens, SHARD])
    return weights_folder() / "embeddings" / f"{model.captions.name}-{key}"


def embedded(model) -> EmbeddedCaptions:
    """The embedded captions of a model; computed first, in a process of its own, when they are not there."""
    model.captions.read()
    folder = embeddings_folder(model)
    if not (folder / "index.json").is_file():
        done = subprocess.run([sys.executable, "-m", "harmonica", "embed", model.name])
        if done.returncode:
            raise UserError(f"the captions of {model.title} could not be embedded, see above")
    return EmbeddedCaptions(folder, model.captions.drawn)


def embed(model, batch: int = 50) -> Path:
    """Embed all captions of the model's list, and the null prompt after them. What is there already stays.

    Each shard holds embeddings (n, L, C) in the encoder's type and masks (n, L).
    """
    import torch
    from safetensors.torch import save
    from tqdm import tqdm

    captions = [*model.captions.read(), ""]
    folder = embeddings_folder(model)
    shards = [captions[i : i + SHARD] for i in range(0, len(captions), SHARD)]
    missing = [k for k in range(len(shards)) if not (folder / _shard_name(k)).is_file()]
    encode = model.load_text_encoder() if missing else None
    for k in tqdm(missing, desc=f"captions {model.captions.name}", mininterval=5):
        parts = [encode(shards[k][i : i + batch]) for i in range(0, len(shards[k]), batch)]
        embeddings, masks = (torch.cat(p).contiguous().cpu() for p in zip(*parts, strict=True))
        write_whole(folder / _shard_name(k), save({"embeddings": embeddings, "mask": masks}))
    about = {"captions": len(captions) - 1, "list": model.captions.name, "sha256": model.captions.hash}
    write_whole(folder / "index.json", json.dumps(about, indent=1) + "\n")
    return folder
