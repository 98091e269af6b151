"""Reference sets: the statistics of real images that generated ones are compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.evaluation.distances import Gaussian, radii
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import SHIPPED, check_name, fingerprint
from harmonica.utils import DAMAGED_NPZ, UserError, write_npz
from harmonica.utils.images import PICTURES, pictures_in, read_picture


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the full reference set, pooled features (n ≤ 10 000, d) of a part, and the name of the network that
    made them."""

    pooled: Gaussian
    spatial: Gaussian
    features: np.ndarray
    network: str = ""

    @cached_property
    def radii(self) -> np.ndarray:
        return radii(self.features)

    @staticmethod
    def load(path: str | Path) -> "Reference":
        """Read a reference file. Raises UserError if it is missing, no reference, or has NaN or infinite numbers."""
        try:
            with np.load(path, allow_pickle=False) as f:
                arrays = [f[k] for k in ("mu", "sigma", "mu_s", "sigma_s", "features")]
                network = str(f["network"]) if "network" in f else ""
        except DAMAGED_NPZ as e:
            raise UserError(f"{path} is not a reference of the metrics ({type(e).__name__}: {e})") from None
        mu, sigma, mu_s, sigma_s, features = arrays
        square = (mu.shape * 2, mu_s.shape * 2)
        if (sigma.shape, sigma_s.shape) != square or features.shape[1:] != mu.shape or mu.ndim != 1:
            raise UserError(
                f"{path} is not a reference of the metrics: the shapes of its statistics do not fit together"
            )
        if not all(np.isfinite(x).all() for x in arrays):
            raise UserError(f"{path} has numbers that are not finite: make the reference again")
        return Reference(Gaussian(mu, sigma), Gaussian(mu_s, sigma_s), features, network)

    def save(self, path: str | Path) -> None:
        write_npz(path, mu=self.pooled.mu, sigma=self.pooled.sigma, mu_s=self.spatial.mu, sigma_s=self.spatial.sigma,
                  features=self.features, network=self.network)  # fmt: skip


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

    files = pictures_in(folder) if folder.is_dir() else []
    if len(files) < 2:
        raise UserError(f"{folder} has {len(files)} pictures ({', '.join(PICTURES)}); a reference needs at least 2")

    def read(path: Path) -> np.ndarray:
        return np.asarray(ImageOps.fit(read_picture(path), (side, side), Image.Resampling.BICUBIC))

    starts = tqdm(range(0, len(files), chunk), desc="reference", mininterval=5)
    parts = (extract(np.stack([read(p) for p in files[i : i + chunk]])) for i in starts)
    pooled, spatial = (np.concatenate(x) for x in zip(*((f.pooled, f.spatial) for f in parts), strict=True))
    kept = np.linspace(0, len(files) - 1, min(len(files), 10_000)).round().astype(int)
    return Reference(Gaussian.of(pooled), Gaussian.of(spatial), pooled[kept])


def get_reference(name: str, path: Path | None) -> Reference:
    """The reference at `path`, or the extractor's own. Raises UserError if there is neither, or if another network made
    it, or a file does not say which."""
    check_name(name)
    if path is None and name not in SHIPPED:
        raise UserError(f"the extractor {name} needs a reference: make one with `harmonica reference`")
    own = Reference.load(path or SHIPPED[name] / "reference.npz")
    if path and own.network != fingerprint(name):
        made = f"by {own.network}" if own.network else "by a network that it does not name"
        raise UserError(
            f"{path} was made {made}, not by {name}: distances between features of two networks mean nothing; make it "
            f"again with `harmonica reference --extractor {name}`"
        )
    return own
