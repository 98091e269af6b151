"""Reference sets: the statistics of real images that generated ones are compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.evaluation.distances import Gaussian, radii
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import SHIPPED, check_name
from harmonica.utils import DAMAGED_NPZ, UserError, write_npz
from harmonica.utils.images import PICTURES


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the full reference set, pooled features (n ≤ 10 000, d) of a part."""

    pooled: Gaussian
    spatial: Gaussian
    features: np.ndarray

    @cached_property
    def radii(self) -> np.ndarray:
        return radii(self.features)

    @staticmethod
    def load(path: str | Path) -> "Reference":
        """Read a reference file. Raises UserError if it is missing or no reference."""
        try:
            with np.load(path, allow_pickle=False) as f:
                return Reference(Gaussian(f["mu"], f["sigma"]), Gaussian(f["mu_s"], f["sigma_s"]), f["features"])
        except DAMAGED_NPZ as e:
            raise UserError(f"{path} is not a reference of the metrics ({type(e).__name__}: {e})") from None

    def save(self, path: str | Path) -> None:
        write_npz(path, mu=self.pooled.mu, sigma=self.pooled.sigma, mu_s=self.spatial.mu, sigma_s=self.spatial.sigma,
                  features=self.features)  # fmt: skip


def adm_reference(path: str | Path, extract: Callable[[np.ndarray], Features], chunk: int = 500) -> Reference:
    """The reference in one of ADM's files: statistics of the full set (mu, sigma, mu_s, sigma_s) as stored, and the
    features of its images (arr_0). Raises UserError for another file."""
    try:
        with np.load(path, allow_pickle=False) as f:
            stored = [f[k].astype(np.float64) for k in ("mu", "sigma", "mu_s", "sigma_s")]
            images = f["arr_0"]
    except DAMAGED_NPZ as e:
        raise UserError(f"{path} is not a reference file of ADM's evaluator ({type(e).__name__}: {e})") from None
    pooled = np.concatenate([extract(images[i : i + chunk]).pooled for i in range(0, len(images), chunk)])
    if pooled.shape[1] != len(stored[0]):
        raise UserError(f"{path} has {len(stored[0])} features per image, but the network gives {pooled.shape[1]}")
    return Reference(Gaussian(*stored[:2]), Gaussian(*stored[2:]), pooled)


def folder_reference(folder: Path, extract: Callable[[np.ndarray], Features], side: int, chunk: int = 250) -> Reference:
    """The reference of a folder's pictures: short side resized to `side` pixels, centre crop, ordered by name.

    Features of 10 000 evenly spaced ones are kept. Raises UserError for fewer than two pictures, or a damaged one.
    """
    from PIL import Image, ImageOps
    from tqdm import tqdm

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise UserError(f"{folder} has {len(files)} pictures ({', '.join(PICTURES)}); a reference needs at least 2")

    def read(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as f:
                return np.asarray(ImageOps.fit(f.convert("RGB"), (side, side), Image.Resampling.BICUBIC))
        except OSError as e:
            raise UserError(f"{path} is not a complete picture ({e})") from None

    starts = tqdm(range(0, len(files), chunk), desc="reference", mininterval=5)
    parts = (extract(np.stack([read(p) for p in files[i : i + chunk]])) for i in starts)
    pooled, spatial = (np.concatenate(x) for x in zip(*((f.pooled, f.spatial) for f in parts), strict=True))
    kept = np.linspace(0, len(files) - 1, min(len(files), 10_000)).round().astype(int)
    return Reference(Gaussian.of(pooled), Gaussian.of(spatial), pooled[kept])


def get_reference(name: str, path: Path | None) -> Reference:
    """The reference at `path`, or the extractor's own. Raises UserError if there is neither."""
    check_name(name)
    if path is None and name not in SHIPPED:
        raise UserError(f"the extractor {name} needs a reference: make one with `harmonica reference`")
    return Reference.load(path or SHIPPED[name] / "reference.npz")
