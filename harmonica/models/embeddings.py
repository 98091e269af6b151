"""Text embeddings of caption lists: computed once by the text encoder, stored in shards, read row by row, so that
samplers and router training never load the text encoder. Only real tokens are stored: padding, which cross-attentions
mask, is most of a caption's tokens."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonica.backbones.base import Captions
from harmonica.models.captions import SHARD, TRAINING_CAPTIONS
from harmonica.models.spec import Model, embeddings_folder
from harmonica.utils import UserError, provenance, write_atomic
from harmonica.utils.arrays import CHECKSUM
from harmonica.utils.records import Record
from harmonica.utils.torch_files import of_tensors


@dataclass(frozen=True)
class EmbeddingsIndex(Record):
    """What the shards of a folder are."""

    kind = "an index of embedded captions"
    properties = {
        "captions": {"type": "integer", "minimum": 1}, "length": {"type": "integer", "minimum": 1},
        "list": {"type": "string"}, "list_sha256": {"type": "string"}, "device": {"type": "string"},
        "precision": {"type": "string"},
    }  # fmt: skip
    captions: int  # without the null prompt, which is the last
    length: int  # of a caption with its padding, in tokens
    list: str
    list_sha256: str
    device: str
    precision: str


class EmbeddedCaptions(Captions):
    """A list's embeddings on disk, of which `count` are for images; rows are padded with zeros. Raises UserError if the
    folder, or later a shard, is damaged."""

    def __init__(self, folder: Path, count: int):
        try:
            about = EmbeddingsIndex.load(folder / "index.json")
        except UserError as e:
            raise UserError(f"{folder} does not contain embedded captions ({e}): delete it and run again") from None
        super().__init__(count, about.captions)
        self.length, self.folder = about.length, folder
        self._open: dict[int, tuple[Tensor, list[int]]] = {}  # of each shard, its tokens, and where its captions begin

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = {k: self._row(k) for k in set(labels.tolist())}
        embeddings, masks = zip(*(rows[k] for k in labels.tolist()), strict=True)
        return torch.stack(embeddings), torch.stack(masks)

    def _row(self, label: int) -> tuple[Tensor, Tensor]:
        """Embeddings (L, C) and mask (L,) of a label."""
        shard, k = divmod(label, SHARD)
        path = self.folder / _shard_name(shard)
        if shard not in self._open:
            tokens, lengths = _read_shard(path)
            self._open[shard] = tokens, [0, *lengths.cumsum(0).tolist()]
        tokens, starts = self._open[shard]
        if k + 1 >= len(starts):
            raise UserError(
                f"{path} has {len(starts) - 1} captions, not caption {k}: delete {self.folder} and run again"
            )
        tokens = tokens[starts[k] : starts[k + 1]]
        return F.pad(tokens, (0, 0, 0, self.length - len(tokens))), (torch.arange(self.length) < len(tokens)).long()


def _shard_name(k: int) -> str:
    return f"{k:05d}.safetensors"


def _read_shard(path: Path) -> tuple[Tensor, Tensor]:
    """Tokens (Σ lengths, C), mapped into memory, and lengths (n,). Raises UserError if the shard is missing or
    damaged."""
    from safetensors import safe_open

    again = f"delete {path.parent} and run again"
    try:
        with safe_open(path, "pt") as f:
            found, checksum = {k: f.get_tensor(k) for k in f.keys()}, (f.metadata() or {}).get(CHECKSUM)
    except Exception as e:  # what safetensors raises is not documented
        raise UserError(f"{path} is damaged ({type(e).__name__}: {str(e)[:100]}): {again}") from None
    if found.keys() != {"tokens", "lengths"} or checksum != of_tensors(found):
        raise UserError(f"{path} is damaged: its checksum differs; {again}")
    return found["tokens"], found["lengths"]


def _is_whole(path: Path) -> bool:
    try:
        _read_shard(path)
    except UserError:
        return False
    return True


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
    """Embed the captions for images and for training of the model's list, then the null prompt; whole shards that
    exist are kept. Returns the folder.

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
    missing = [k for k in range(len(shards)) if not _is_whole(folder / _shard_name(k))]
    encode = load_text_encoder(model) if missing else list
    for k in tqdm(missing, desc=f"captions {model.captions.name}", mininterval=5):
        parts = [_real(*encode(shards[k][i : i + batch])) for i in range(0, len(shards[k]), batch)]
        tokens, lengths = (torch.cat(p) for p in zip(*parts, strict=True))
        shard = {"tokens": tokens.contiguous(), "lengths": lengths}
        write_atomic(folder / _shard_name(k), save(shard, {CHECKSUM: of_tensors(shard)}))
    EmbeddingsIndex(
        captions=len(captions) - 1, length=model.text_tokens, list=model.captions.name, list_sha256=model.captions.hash,
        device=provenance.device(), precision="float16" if model.hub else "float32",
    ).save(folder / "index.json")  # fmt: skip
    return folder


def _real(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens (Σ lengths, C) of embeddings (n, L, C), and their numbers (n,), on the CPU."""
    real = mask.cpu().bool()
    return embeddings.cpu()[real], real.sum(1)
