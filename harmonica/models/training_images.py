"""Training images as latents, for methods that learn from images: those shipped with a pocket model, or ImageNet's,
encoded on request as in DiT's training."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harmonica.models.spec import Model
from harmonica.utils import UserError
from harmonica.utils.devices import default_device
from harmonica.utils.images import PICTURES, pad_to_32, to_float


def training_latents(model: Model, vae):
    """Latents (n, 4, h, w) by the autoencoder `vae`, unit variance, and labels (n,) of a model's training images.

    Both are indexed by a tensor; ImageNet's are encoded on request. Raises UserError for a model without images.
    """
    path = model.training_images
    if path is None:
        raise UserError(f"there are no training images for {model.title}; a method that trains on images needs them")
    if path.suffix != ".npz":
        latents = ImageNetLatents(vae, model.resolution, path)
        return latents, latents.labels
    return shipped_latents(path, vae)


def shipped_latents(path: Path, vae) -> tuple[Tensor, Tensor]:
    """Latents (n, 4, 8, 8), unit variance, and labels (n,) of a file of training images. Raises UserError if it is
    missing."""
    if not path.is_file():
        raise UserError(
            f"{path}, the training images of this model, is missing; a method that trains on images needs it"
        )
    with np.load(path, allow_pickle=False) as f:
        images, labels = f["images"], torch.from_numpy(f["labels"])
    if images.ndim == 3:  # Fashion-MNIST, 28×28
        images = pad_to_32(images)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        parts = [
            vae.encode(to_float(images[i : i + 500]).to(vae.device)).latent_dist.sample(generator).cpu()
            for i in range(0, len(images), 500)
        ]
    return (torch.cat(parts) * vae.config.scaling_factor).clone(), labels


class ImageNetLatents:
    """`latents[index]` for a tensor of indices (b,) gives (b, 4, h, w), scaled to unit variance; `labels` is (n,).

    Images are cropped as ADM does, flipped at random, and encoded with a posterior sample. Raises UserError if
    the folder of class folders is missing or empty.
    """

    def __init__(self, vae, resolution: int, folder: Path):
        classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        found = [(p, k) for k, c in enumerate(classes) for p in sorted(c.iterdir()) if p.suffix.lower() in PICTURES]
        if not found:
            raise UserError(
                f"a method that trains on images needs ImageNet's: link the folder of its class folders to {folder}"
            )
        self.files = [p for p, _ in found]
        self.labels = torch.tensor([k for _, k in found])
        self.vae, self.resolution = vae, resolution
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.files)

    @torch.inference_mode()
    def __getitem__(self, index: Tensor) -> Tensor:
        pixels = np.stack([self._read(self.files[i]) for i in index.tolist()])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(default_device()) / 127.5 - 1
        return (self.vae.encode(x).latent_dist.sample() * self.vae.config.scaling_factor).clone()

    def _read(self, path: Path) -> np.ndarray:
        from PIL import Image

        with Image.open(path) as opened:
            image = centre_crop(opened.convert("RGB"), self.resolution)
        return image[:, ::-1] if self._rng.random() < 0.5 else image


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
