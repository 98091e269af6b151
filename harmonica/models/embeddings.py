"""Text embeddings of caption lists: computed once by the text encoder, stored in shards, read row by row, so that
samplers and router training never load the text encoder. Only real tokens are stored: padding, which cross-attentions
mask, is most of a caption's tokens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonica.backbones.base import Captions
from harmonica.models.captions import SHARD, TRAINING_CAPTIONS
from harmonica.models.spec import Model, embeddings_folder
from harmonica.utils import UserError, provenance, write_atomic, write_json


class EmbeddedCaptions(Captions):
    """A list's embeddings on disk, of which `count` are for images; rows are padded with zeros. Raises UserError if the
    folder, or later a shard, is damaged."""

    def __init__(self, folder: Path, count: int):
        try:
            about = json.loads((folder / "index.json").read_text("utf-8"))
            super().__init__(count, int(about["captions"]))
            self.length = int(about["length"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(f"{folder} does not contain embedded captions ({type(e).__name__})") from None
        self.folder = folder
        self._open: dict[int, tuple[Any, list[int]]] = {}  # of each shard, its file, and where its captions begin

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = {k: self._row(k) for k in set(labels.tolist())}
        embeddings, masks = zip(*(rows[k] for k in labels.tolist()), strict=True)
        return torch.stack(embeddings), torch.stack(masks)

    def _row(self, label: int) -> tuple[Tensor, Tensor]:
        """Embeddings (L, C) and mask (L,) of a label."""
        from safetensors import SafetensorError, safe_open

        shard, k = divmod(label, SHARD)
        path = self.folder / _shard_name(shard)
        try:
            if shard not in self._open:
                f = safe_open(path, "pt").__enter__()
                self._open[shard] = f, [0, *f.get_tensor("lengths").cumsum(0).tolist()]
            f, starts = self._open[shard]
            tokens = f.get_slice("tokens")[starts[k] : starts[k + 1]]
        except (OSError, SafetensorError, IndexError) as e:
            raise UserError(f"{path} is damaged ({e}): delete {self.folder} and run again") from None
        return F.pad(tokens, (0, 0, 0, self.length - len(tokens))), (torch.arange(self.length) < len(tokens)).long()


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
    """Embed the captions for images and for training of the model's list, then the null prompt; existing shards are
    kept. Returns the folder.

    Each shard has the tokens (Σ lengths, C) of its captions, one caption after the other, in the encoder's dtype, and
    their lengths (n,).
    """
    from safetensors.torch import save
    from tqdm import tqdm

    from harmonica.models.loading import load_text_encoder

    assert model.captions
    captions = [*model.captions.read()[: model.captions.images + TRAINING_CAPTIONS], ""]
    folder = embeddings_folder(model)
    shards = [captions[i : i + SHARD] for i in range(0, len(captions), SHARD)]
    missing = [k for k in range(len(shards)) if not (folder / _shard_name(k)).is_file()]
    encode = load_text_encoder(model) if missing else list
    for k in tqdm(missing, desc=f"captions {model.captions.name}", mininterval=5):
        parts = [_real(*encode(shards[k][i : i + batch])) for i in range(0, len(shards[k]), batch)]
        tokens, lengths = (torch.cat(p) for p in zip(*parts, strict=True))
        write_atomic(folder / _shard_name(k), save({"tokens": tokens, "lengths": lengths}))
    about = {"captions": len(captions) - 1, "length": model.text_tokens, "list": model.captions.name,
             "sha256": model.captions.hash, "device": provenance.device(),
             "precision": "float16" if model.hub else "float32"}  # fmt: skip
    write_json(folder / "index.json", about)
    return folder


def _real(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens (Σ lengths, C) of embeddings (n, L, C), and their numbers (n,), on the CPU."""
    real = mask.cpu().bool()
    return embeddings.cpu()[real], real.sum(1)
