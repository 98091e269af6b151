"""ImageNet's training images as latents, encoded when they are asked for, as DiT's training does."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harmonica.devices import default_device
from harmonica.errors import UserError
from harmonica.extractors import PICTURES
from harmonica.provenance import weights_folder


class ImageNetLatents:
    """`latents[index]` for a tensor of indices (b,) gives (b, 4, h, w), scaled to unit variance; `labels` is (n,).

    Images are cropped as ADM does, flipped at random, and encoded with a draw from the posterior. Raises UserError when
    the folder of classes is not there or empty.
    """

    def __init__(self, vae, resolution: int, folder: Path | None = None):
        folder = folder or weights_folder() / "imagenet" / "train"
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
    """ADM's crop of a PIL image, uint8 (size, size, 3): halved by box filter while twice too large, then bicubic."""
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]
