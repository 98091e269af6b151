"""Text embeddings of caption lists: computed once by the text encoder, stored in shards, read row by row, so that
samplers and router training never load the text encoder."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonica.backbones.base import Captions
from harmonica.models.captions import SHARD
from harmonica.models.spec import Model, embeddings_folder
from harmonica.utils import UserError, write_atomic, write_json


class EmbeddedCaptions(Captions):
    """A list's embeddings on disk. Raises UserError if the folder, or later a shard, is damaged."""

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        try:
            super().__init__(count, int(json.loads((folder / "index.json").read_text())["captions"]))
        except (OSError, ValueError, KeyError) as e:
            raise UserError(f"{folder} does not contain embedded captions ({type(e).__name__})") from None
        self._open: dict[int, Any] = {}

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = {k: self._row(k) for k in set(labels.tolist())}
        embeddings, masks = zip(*(rows[k] for k in labels.tolist()), strict=True)
        return torch.stack(embeddings), torch.stack(masks)

    def _row(self, label: int) -> tuple[Tensor, Tensor]:
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


def embedded(model: Model) -> EmbeddedCaptions:
    """The embedded captions of a model; if missing, a separate process computes them first."""
    assert model.captions
    model.captions.read()
    folder = embeddings_folder(model)
    if not (folder / "index.json").is_file():
        done = subprocess.run([sys.executable, "-m", "harmonica", "embed", model.name])
        if done.returncode:
            raise UserError(f"the captions of {model.title} could not be embedded, see above")
    return EmbeddedCaptions(folder, model.captions.images)


def embed(model: Model, batch: int = 50) -> Path:
    """Embed all captions of the model's list, then the null prompt; existing shards are kept. Returns the folder.

    Each shard has embeddings (n, L, C) in the encoder's dtype, masks (n, L).
    """
    from safetensors.torch import save
    from tqdm import tqdm

    from harmonica.models.loading import load_text_encoder

    assert model.captions
    captions = [*model.captions.read(), ""]
    folder = embeddings_folder(model)
    shards = [captions[i : i + SHARD] for i in range(0, len(captions), SHARD)]
    missing = [k for k in range(len(shards)) if not (folder / _shard_name(k)).is_file()]
    encode = load_text_encoder(model) if missing else list
    for k in tqdm(missing, desc=f"captions {model.captions.name}", mininterval=5):
        parts = [encode(shards[k][i : i + batch]) for i in range(0, len(shards[k]), batch)]
        embeddings, masks = (torch.cat(p).contiguous().cpu() for p in zip(*parts, strict=True))
        write_atomic(folder / _shard_name(k), save({"embeddings": embeddings, "mask": masks}))
    about = {"captions": len(captions) - 1, "list": model.captions.name, "sha256": model.captions.hash}
    write_json(folder / "index.json", about)
    return folder
