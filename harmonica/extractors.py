"""Feature networks and reference sets: images to what the metrics compare. A table names the network it used."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from harmonica.errors import DAMAGED_NPZ, UserError, unknown
from harmonica.metrics import Gaussian, radii
from harmonica.pocket import CLASS_CONDITIONAL, TEXT_TO_IMAGE
from harmonica.provenance import source_hash, write_npz

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True, eq=False)
class Features:
    pooled: np.ndarray  # (n, d)
    spatial: np.ndarray  # (n, d_s)
    logits: np.ndarray  # (n, classes)

    @staticmethod
    def join(parts: Iterable["Features"]) -> "Features":
        parts = list(parts)
        return Features(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("pooled", "spatial", "logits")))


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the whole reference set and pooled features of 10 000 of its images."""

    pooled: Gaussian
    spatial: Gaussian
    features: np.ndarray

    @cached_property
    def radii(self) -> np.ndarray:
        return radii(self.features)

    @staticmethod
    def load(path: str | Path) -> "Reference":
        """Read a reference file. Raises UserError when it is missing or no reference."""
        try:
            with np.load(path, allow_pickle=False) as f:
                return Reference(Gaussian(f["mu"], f["sigma"]), Gaussian(f["mu_s"], f["sigma_s"]), f["features"])
        except DAMAGED_NPZ as e:
            raise UserError(f"{path} is not a reference of metrics ({type(e).__name__}: {e})") from None

    def save(self, path: str | Path) -> None:
        write_npz(path, mu=self.pooled.mu, sigma=self.pooled.sigma, mu_s=self.spatial.mu, sigma_s=self.spatial.sigma,
                  features=self.features)  # fmt: skip


def adm_reference(path: str | Path, extract: Callable[[np.ndarray], Features], chunk: int = 500) -> Reference:
    """The reference in one of ADM's files: statistics of the full set (mu, sigma, mu_s, sigma_s) as they are stored,
    and the features of the images in it (arr_0). Raises UserError for another file."""
    try:
        with np.load(path, allow_pickle=False) as f:
            stored = [f[k].astype(np.float64) for k in ("mu", "sigma", "mu_s", "sigma_s")]
            images = f["arr_0"]
    except DAMAGED_NPZ as e:
        raise UserError(f"{path} is not a reference file of ADM's evaluator ({type(e).__name__}: {e})") from None
    pooled = np.concatenate([extract(images[i : i + chunk]).pooled for i in range(0, len(images), chunk)])
    if pooled.shape[1] != len(stored[0]):
        raise UserError(f"{path} holds {len(stored[0])} features an image, the network gives {pooled.shape[1]}")
    return Reference(Gaussian(*stored[:2]), Gaussian(*stored[2:]), pooled)


def folder_reference(folder: Path, extract: Callable[[np.ndarray], Features], side: int, chunk: int = 250) -> Reference:
    """The reference of a folder's pictures: short side resized to `side`, centre crop, in the order of their names.

    Features of 10 000 of them, evenly spread, are kept. Raises UserError when there are fewer than two pictures.
    """
    from PIL import Image, ImageOps
    from tqdm import tqdm

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise UserError(f"{folder} holds {len(files)} pictures ({', '.join(PICTURES)}): a reference needs more")

    def read(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as f:
                return np.asarray(ImageOps.fit(f.convert("RGB"), (side, side), Image.Resampling.BICUBIC))
        except OSError as e:
            raise UserError(f"{path} is not a whole picture ({e})") from None

    starts = tqdm(range(0, len(files), chunk), desc="reference", mininterval=5)
    parts = (extract(np.stack([read(p) for p in files[i : i + chunk]])) for i in starts)
    pooled, spatial = (np.concatenate(x) for x in zip(*((f.pooled, f.spatial) for f in parts), strict=True))
    kept = np.linspace(0, len(files) - 1, min(len(files), 10_000)).round().astype(int)
    return Reference(Gaussian.of(pooled), Gaussian.of(spatial), pooled[kept])


def inception_2015() -> Callable[[np.ndarray], Features]:
    """Inception as the ADM evaluator has it. Takes uint8 (n, H, W, 3)."""
    from harmonica.downloads import require
    from harmonica.inception import inception_features

    return inception_features(require(INCEPTION_WEIGHTS))


def classifier_features(folder: Path) -> Callable[[np.ndarray], Features]:
    """Features of uint8 (n, 32, 32, C) by the classifier in a pocket folder."""
    import torch
    from safetensors.torch import load_file

    from harmonica.pocket.classifier import Classifier
    from harmonica.pocket.data import to_float

    weights = load_file(folder / "classifier" / "model.safetensors")
    net = Classifier(classes=len(weights["head.bias"]), channels=weights["low.0.0.weight"].shape[1]).eval()
    net.load_state_dict(weights)
    net = net.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        parts = [net(to_float(images[i : i + 250])) for i in range(0, len(images), 250)]
        return Features(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))

    return extract


def fingerprint(name: str) -> str:
    """Changes with the network and its reference, where they are files of ours."""
    if name not in SHIPPED:
        return name
    return source_hash(*(str(SHIPPED[name] / f) for f in ("classifier/model.safetensors", "reference.npz")))


SHIPPED = {"fashion-mnist-cnn": CLASS_CONDITIONAL, "noto-emoji-cnn": TEXT_TO_IMAGE}  # networks with their references
EXTRACTORS = {
    **{name: partial(classifier_features, folder) for name, folder in SHIPPED.items()},
    "inception-2015-12-05": inception_2015,
}


def get_extractor(name: str) -> Callable[[np.ndarray], Features]:
    """The network of that name. Raises UserError for an unknown one, or one whose weights are not there."""
    _check(name)
    return EXTRACTORS[name]()


def _check(name: str) -> None:
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)


def get_reference(name: str, path: Path | None) -> Reference:
    """The reference at `path`, or the one that comes with the extractor. Raises UserError when there is neither."""
    _check(name)
    if path is None and name not in SHIPPED:
        raise UserError(f"the extractor {name} needs a reference: make one with `harmonica reference`")
    return Reference.load(path or SHIPPED[name] / "reference.npz")
