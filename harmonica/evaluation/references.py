"""Reference sets: the statistics of real images that generated ones are compared with."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.evaluation.distances import Gaussian, radii
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import SHIPPED, check_name, fingerprint
from harmonica.models import Model
from harmonica.models.shipped import verified
from harmonica.utils import UserError
from harmonica.utils.arrays import Form, read_npz, write_npz
from harmonica.utils.images import PICTURES, pictures_in, read_picture

_WHAT = "a reference of the metrics"
_STATISTICS = {k: Form("f", (n,)) for k, n in (("mu", 1), ("sigma", 2), ("mu_s", 1), ("sigma_s", 2), ("features", 2))}
_IDENTITY = {"network": Form("U", (0,)), "data": Form("U", (0,)), "source": Form("U", (0,)), "side": Form("iu", (0,)),
             "images": Form("iu", (0,))}  # fmt: skip
SHIPPED_SIDE = 32
SHIPPED_IMAGES = {"fashion-mnist": 60_000, "noto-emoji": 3786}  # of the data set: training images, all pictures


@dataclass(frozen=True)
class Identity:
    """What a reference is of: generated images are only compared with one of their network, data set and side."""

    network: str  # that made the features, by its content: `networks.fingerprint`
    data: str  # the data set, as `Model.data_set` names it
    source: str  # how the pictures were taken from it
    side: int  # of the pictures, in pixels
    images: int  # in the statistics


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the full reference set, and pooled features (n ≤ 10 000, d) of a part; `about` is None if it was
    made in passing, to be used at once."""

    pooled: Gaussian
    spatial: Gaussian
    features: np.ndarray
    about: Identity | None = None

    @cached_property
    def radii(self) -> np.ndarray:
        return radii(self.features)

    @staticmethod
    def load(path: str | Path) -> "Reference":
        """Read a reference file. Raises UserError if it is missing, damaged, no reference, says not what it is of, or
        has NaN or infinite numbers."""
        try:
            stored = read_npz(path, _WHAT, _STATISTICS | _IDENTITY)
        except UserError as e:
            raise UserError(f"{e}; make it with `harmonica reference`") from None
        about = {k: stored.pop(k).item() for k in _IDENTITY}
        return _checked(path, stored, Identity(**about))

    def save(self, path: str | Path) -> None:
        """Write a reference file, atomically. Raises UserError for numbers that are not finite."""
        assert self.about
        own = (self.pooled.mu, self.pooled.sigma, self.spatial.mu, self.spatial.sigma, self.features)
        if not all(np.isfinite(x).all() for x in own):
            raise UserError(f"features of {self.about.network} are not finite: no reference was written")
        write_npz(path, dict(zip(_STATISTICS, own, strict=True)) | asdict(self.about))


def _checked(path: str | Path, stored: dict[str, np.ndarray], about: Identity) -> Reference:
    mu, sigma, mu_s, sigma_s, features = (stored[k] for k in _STATISTICS)
    if (sigma.shape, sigma_s.shape) != (mu.shape * 2, mu_s.shape * 2) or features.shape[1:] != mu.shape:
        raise UserError(f"{path} is not {_WHAT}: the shapes of its statistics do not fit together")
    if not all(np.isfinite(x).all() for x in stored.values()):
        raise UserError(f"{path} has numbers that are not finite: make the reference again")
    return Reference(Gaussian(mu, sigma), Gaussian(mu_s, sigma_s), features, about)


def shipped_reference(extractor: str) -> Reference:
    """The reference that is shipped with a feature network: of the data set that the network was trained on."""
    path = SHIPPED[extractor] / "reference.npz"
    stored = read_npz(verified(path), _WHAT, _STATISTICS, own=False)
    data = SHIPPED[extractor].name
    return _checked(path, stored, Identity(fingerprint(extractor), data, "shipped", SHIPPED_SIDE, SHIPPED_IMAGES[data]))


def adm_reference(
    path: str | Path, extract: Callable[[np.ndarray], Features], network: str, data: str, chunk: int = 500
) -> Reference:
    """The reference in one of ADM's files: statistics of the full set (mu, sigma, mu_s, sigma_s) as stored, and the
    features of its images (arr_0). `network` and `data` are for its identity. Raises UserError for another file."""
    forms = {k: f for k, f in _STATISTICS.items() if k != "features"} | {"arr_0": Form("u", (4,))}
    found = read_npz(path, "a reference file of ADM's evaluator", forms, own=False)
    stored, images = [found[k].astype(np.float64) for k in ("mu", "sigma", "mu_s", "sigma_s")], found["arr_0"]
    if images.shape[1] != images.shape[2]:
        raise UserError(f"{path} is not a reference file of ADM's evaluator: its images are not square")
    pooled = np.concatenate([extract(images[i : i + chunk]).pooled for i in range(0, len(images), chunk)])
    if pooled.shape[1] != len(stored[0]):
        raise UserError(f"{path} has {len(stored[0])} features per image, but the network gives {pooled.shape[1]}")
    about = Identity(network, data, "ADM's statistics, features of its images", images.shape[1], len(images))
    return Reference(Gaussian(*stored[:2]), Gaussian(*stored[2:]), pooled, about)


def folder_reference(
    folder: Path,
    extract: Callable[[np.ndarray], Features],
    side: int,
    network: str,
    data: str,
    chunk: int = 250,
    channels: int = 3,
) -> Reference:
    """The reference of a folder's pictures: short side resized to `side` pixels, centre crop, ordered by name.

    A network of one channel gets them in grey. Features of 10 000 evenly spaced ones are kept; `network` and `data` are
    for its identity. Raises UserError for fewer than two pictures, or a damaged one.
    """
    from PIL import Image, ImageOps
    from tqdm import tqdm

    files = pictures_in(folder) if folder.is_dir() else []
    if len(files) < 2:
        raise UserError(f"{folder} has {len(files)} pictures ({', '.join(PICTURES)}); a reference needs at least 2")

    def read(path: Path) -> np.ndarray:
        picture = read_picture(path) if channels == 3 else read_picture(path).convert("L")
        return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC))

    starts = tqdm(range(0, len(files), chunk), desc="reference", mininterval=5)
    parts = (extract(np.stack([read(p) for p in files[i : i + chunk]])) for i in starts)
    pooled, spatial = (np.concatenate(x) for x in zip(*((f.pooled, f.spatial) for f in parts), strict=True))
    kept = np.linspace(0, len(files) - 1, min(len(files), 10_000)).round().astype(int)
    about = Identity(network, data, "a folder, short side resized, centre crop", side, len(files))
    return Reference(Gaussian.of(pooled), Gaussian.of(spatial), pooled[kept], about)


def get_reference(name: str, path: Path | None, model: Model) -> Reference:
    """The reference at `path`, or the extractor's own, for images of a model. Raises UserError if there is neither, or
    if it was made by another network, of another data set, or of pictures of another side."""
    check_name(name)
    if path is None and name not in SHIPPED:
        raise UserError(f"the extractor {name} needs a reference: make one with `harmonica reference`")
    shipped = path is None or (name in SHIPPED and path.resolve() == (SHIPPED[name] / "reference.npz").resolve())
    own = shipped_reference(name) if shipped else Reference.load(path or "")
    about, where = own.about, path or f"the reference of {name}"
    assert about
    again = "make one with `harmonica reference"
    if about.network != fingerprint(name):
        raise UserError(
            f"{where} was made by {about.network or 'a network that it does not name'}, not by {name}: distances "
            f"between features of two networks mean nothing; {again} --extractor {name}`"
        )
    if about.data != model.data_set and (model.data_set or not model.own):
        raise UserError(
            f"{where} is of {about.data}, and the images of {model.name} are compared with {model.data_set}: their "
            f"distance would mean nothing; {again} --data {model.data_set}` of pictures of that data set"
        )
    if about.side != model.resolution:
        raise UserError(
            f"{where} is of pictures of {about.side} pixels, and the images of {model.name} have {model.resolution}; "
            f"{again} --side {model.resolution}`"
        )
    return own
