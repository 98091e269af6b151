"""Training images as latents, for methods that learn from images: those shipped with a pocket model, or ImageNet's.

ImageNet is encoded once: `store_moments` writes the mean and standard deviation of every image's posterior, from which
trainings draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harmonica.models.shipped import verified
from harmonica.models.spec import Model
from harmonica.utils import UserError, content_hash, digest, provenance, weights_folder
from harmonica.utils.arrays import Form, read_npy, read_npz, write_npy
from harmonica.utils.devices import require_gpu
from harmonica.utils.images import pad_to_32, pictures_in, read_picture, to_float, visible
from harmonica.utils.records import Record

SHARD = 5000  # images in one file of moments
BATCH_PIXELS = 32 * 256**2  # encoded at a time
FLIP_SEED = 0


class Latents(Protocol):
    """Latents of training images."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def draw(self, index: Tensor, g: torch.Generator) -> Tensor:
        """Latents (b, C, h, w), unit variance, float32 on the CPU, of the images at indices (b,). The training's
        generator `g` is one of the CPU, so the draws are the same on every device."""
        ...


class Samples:
    """One latent (n, C, h, w) of every image; a draw does not advance the generator."""

    def __init__(self, latents: Tensor):
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, index: Tensor, g: torch.Generator) -> Tensor:
        return self.latents[index]


@dataclass(frozen=True)
class MomentsIndex(Record):
    """What the shards of a folder are."""

    kind = "an index of moments"
    properties = {
        "images": {"type": "integer", "minimum": 1}, "scaling_factor": {"type": "number", "exclusiveMinimum": 0},
        "pictures": {"type": "string"}, "device": {"type": "string"}, "precision": {"type": "string"},
    }  # fmt: skip
    images: int
    scaling_factor: float
    pictures: str  # a digest of their names
    device: str
    precision: str


class Moments:
    """The posteriors that `store_moments` has written to a folder, read row by row; `labels` is (n,). A draw is a new
    sample of every image. Raises UserError if the folder is incomplete, or later a shard damaged."""

    def __init__(self, folder: Path, command: str):
        try:
            about = MomentsIndex.load(folder / "index.json")
            self.labels = torch.from_numpy(np.array(read_npy(folder / "labels.npy")))
        except UserError as e:
            raise UserError(
                f"{folder} does not contain the moments of the training images ({e}): run `{command}`"
            ) from None
        images, self.scale = about.images, about.scaling_factor
        lacking = [k for k in range(-(-images // SHARD)) if not (folder / _shard_name(k)).is_file()]
        if lacking:
            raise UserError(f"{folder / _shard_name(lacking[0])} is missing: `{command}` makes what is missing")
        self.folder, self.command = folder, command
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, index: Tensor, g: torch.Generator) -> Tensor:
        mean, std = torch.from_numpy(np.stack([self._row(i) for i in index.tolist()])).float().chunk(2, 1)
        return (mean + std * torch.randn(mean.shape, generator=g)) * self.scale

    def _row(self, i: int) -> np.ndarray:
        """Mean and standard deviation of an image, float16 (2C, h, w)."""
        shard, k = divmod(i, SHARD)
        path = self.folder / _shard_name(shard)
        try:
            if shard not in self._open:
                self._open[shard] = read_npy(path)
            return self._open[shard][k]
        except (UserError, IndexError) as e:
            raise UserError(f"{path} is damaged ({e}): run `{self.command}`") from None


def _shard_name(k: int) -> str:
    return f"{k:05d}.npy"


def training_latents(model: Model, vae=None) -> tuple[Latents, Tensor]:
    """Latents and labels (n,) of a model's training images: of shipped ones by the autoencoder `vae`, of ImageNet's by
    stored moments. Raises UserError for a model without images, or if they or their moments are missing."""
    path = _images(model)
    if model.hub:
        moments = Moments(moments_folder(model), f"harmonica moments {model.name}")
        return moments, moments.labels
    return shipped_latents(path, vae, model)


def fingerprint(model: Model) -> str:
    """Changes with the training images of a model that are here; "" if there are none."""
    if model.hub and not model.captions:
        index = moments_folder(model) / "index.json"
        return MomentsIndex.load(index).pictures if index.is_file() else ""
    path = model.training_images
    return content_hash(path) if path is not None and path.is_file() else ""


def _images(model: Model) -> Path:
    if model.training_images is None:
        raise UserError(f"there are no training images for {model.title}; a method that trains on images needs them")
    return model.training_images


def shipped_latents(path: Path, vae, model: Model) -> tuple[Latents, Tensor]:
    """Latents and labels (n,) of a file of training images; a draw is always the same sample of an image. Raises
    UserError if the file is missing, or its images or labels are not of the model's side, channels and classes."""
    if not path.is_file():
        raise UserError(
            f"{path}, the training images of this model, is missing; a method that trains on images needs it"
        )
    forms = {"images": Form("u", (3, 4)), "labels": Form("iu", (1,))}
    found = read_npz(verified(path), "a file of training images", forms, own=False)
    images, labels = found["images"], torch.from_numpy(found["labels"])
    if images.shape[1:] == (28, 28):  # Fashion-MNIST
        images = pad_to_32(images)
    side, channels = model.resolution, vae.config.in_channels
    if images.shape[1:3] != (side, side) or (images.shape[3] if images.ndim == 4 else 1) != channels:
        raise UserError(f"{path} has images {images.shape[1:]}, and {model.title} is of {side}×{side} with {channels}")
    if len(labels) != len(images):
        raise UserError(f"{path} must have a label for each of its {len(images)} images, and has {len(labels)}")
    if not model.captions and not ((labels >= 0) & (labels < model.classes)).all():
        raise UserError(f"{path} must have labels in [0, {model.classes - 1}]")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        parts = [
            vae.encode(to_float(images[i : i + 500]).to(vae.device)).latent_dist.sample(generator).cpu()
            for i in range(0, len(images), 500)
        ]
    return Samples((torch.cat(parts) * vae.config.scaling_factor).clone()), labels


def moments_folder(model: Model) -> Path:
    """The folder of the moments of ImageNet, which models of one autoencoder and resolution share."""
    form = 2  # of a shard
    key = digest([model.repository("vae"), model.resolution, form, SHARD, FLIP_SEED])
    return weights_folder() / "moments" / f"{model.folder_name('vae')}-{key}"


def store_moments(model: Model, workers: int = 0, part: tuple[int, int] = (0, 1)) -> Path:
    """Encode all of ImageNet for a hub model, or the shards of job k of n, for the `part` (k, n); existing shards are
    kept, damaged ones replaced. Returns the folder.

    A shard has the posterior's mean, then its standard deviation, float16 (n, 2C, h, w), of images cropped as ADM does.
    Each image is stored once, flipped or not as its index and FLIP_SEED decide; DiT's own training decides anew in
    every epoch. Pictures are read by `workers` processes, or by this one. Raises UserError if there are no images, one
    is damaged, or the folder's shards are of other images.
    """
    from tqdm import tqdm

    from harmonica.models.loading import load_autoencoder

    path = _images(model)
    if not model.hub:
        raise UserError(f"{model.title} is shipped with its training images, there is nothing to encode")
    files, labels = pictures(path, model.classes)
    folder = moments_folder(model)
    found = digest([str(f.relative_to(path)) for f in files])
    shards = [range(i, min(i + SHARD, len(files))) for i in range(0, len(files), SHARD)]
    missing = [k for k in range(len(shards)) if not _is_whole(folder / _shard_name(k))]
    if len(missing) < len(shards) and MomentsIndex.load(folder / "index.json").pictures != found:
        raise UserError(f"{folder} has the moments of other images than those in {path}: delete it and run again")
    write_npy(folder / "labels.npy", labels.numpy())
    missing = [k for k in missing if k % part[1] == part[0]]
    if not missing:
        return folder
    require_gpu(model.title)
    vae = load_autoencoder(model)
    about = MomentsIndex(len(files), vae.config.scaling_factor, found, provenance.device(), "float32")
    about.save(folder / "index.json")
    at_once = max(1, BATCH_PIXELS // model.resolution**2)
    batches = {k: [shards[k][i : i + at_once] for i in range(0, len(shards[k]), at_once)] for k in missing}
    pixels = Pictures(files, model.resolution, [b for own in batches.values() for b in own]).read(workers)
    with tqdm(total=sum(len(shards[k]) for k in missing), desc=f"moments {model.name}", mininterval=5) as bar:
        for k, own in batches.items():
            parts = []
            for batch in own:
                parts.append(posterior(vae, next(pixels)))
                bar.update(len(batch))
            write_npy(folder / _shard_name(k), torch.cat(parts).numpy())
    return folder


def _is_whole(path: Path) -> bool:
    try:
        read_npy(path)
    except UserError:
        return False
    return True


@torch.inference_mode()
def posterior(vae, pixels: Tensor) -> Tensor:
    """Mean and standard deviation, float16 (b, 2C, h, w) on the CPU, of uint8 images (b, H, W, 3)."""
    found = vae.encode(pixels.to(vae.device).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    return torch.cat([found.mean, found.std], 1).half().cpu()


def pictures(folder: Path, count: int | None = None) -> tuple[list[Path], Tensor]:
    """The pictures in a folder of class folders, in order, and their classes (n,): the folders that contain pictures,
    counted in the order of their names. Hidden files and folders are ignored.

    Raises UserError if there are none, or not `count` classes: one more or less shifts all labels.
    """
    classes = (
        [own for p in visible(folder.iterdir()) if p.is_dir() and (own := pictures_in(p))] if folder.is_dir() else []
    )
    if not classes:
        raise UserError(
            f"a method that trains on images needs ImageNet's: link the folder of its class folders to {folder}"
        )
    if count is not None and len(classes) != count:
        raise UserError(f"{folder} has {len(classes)} folders with pictures, and the model has {count} classes")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(own) for own in classes]))
    return [p for own in classes for p in own], labels


class Pictures(Dataset):
    """Item k is the batch of pictures at the indices `batches[k]`, uint8 (b, size, size, 3), cropped and flipped."""

    def __init__(self, files: list[Path], size: int, batches: list[range]):
        self.files, self.size, self.batches = files, size, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Tensor | UserError:
        # an error raised in another process would arrive as its traceback
        try:
            return torch.from_numpy(np.stack([self._read(i) for i in self.batches[k]]))
        except UserError as e:
            return e

    def read(self, workers: int) -> Iterator[Tensor]:
        """All batches in order. Raises UserError for a damaged picture."""
        for batch in DataLoader(self, batch_size=None, num_workers=workers):
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _read(self, i: int) -> np.ndarray:
        image = centre_crop(read_picture(self.files[i]), self.size)
        return image[:, ::-1] if np.random.default_rng([FLIP_SEED, i]).random() < 0.5 else image


def centre_crop(image, size: int) -> np.ndarray:
    """ADM's crop of a PIL image, uint8 (size, size, 3): halved by box filter while ≥ 2·size, then bicubic."""
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]
