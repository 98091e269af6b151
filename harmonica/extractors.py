"""Feature networks and reference sets: images to what the metrics compare. A table names the network it used."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.errors import DAMAGED_NPZ, UserError, unknown
from harmonica.metrics import Gaussian, radii
from harmonica.pocket import CLASS_CONDITIONAL
from harmonica.provenance import source_hash, write_npz

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


def fashion_mnist_cnn() -> Callable[[np.ndarray], Features]:
    """The pocket classifier. Takes uint8 (n, 32, 32, 1)."""
    return classifier_features(CLASS_CONDITIONAL)


def inception_2015() -> Callable[[np.ndarray], Features]:
    """Inception as the ADM evaluator has it. Takes uint8 (n, H, W, 3)."""
    from harmonica.downloads import require
    from harmonica.inception import inception_features

    return inception_features(require(INCEPTION_WEIGHTS))


def classifier_features(folder: Path) -> Callable[[np.ndarray], Features]:
    """Features of uint8 (n, 32, 32, 1) by the classifier in a pocket folder."""
    import torch
    from safetensors.torch import load_file

    from harmonica.pocket.classifier import Classifier
    from harmonica.pocket.data import to_float

    net = Classifier().eval()
    net.load_state_dict(load_file(folder / "classifier" / "model.safetensors"))
    net = net.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        parts = [net(to_float(images[i : i + 250, ..., 0])) for i in range(0, len(images), 250)]
        return Features(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))

    return extract


def fingerprint(name: str) -> str:
    """Changes with the network and its reference, where they are files of ours."""
    if name != "fashion-mnist-cnn":
        return name
    return source_hash(*(str(CLASS_CONDITIONAL / f) for f in ("classifier/model.safetensors", "reference.npz")))


EXTRACTORS = {"fashion-mnist-cnn": fashion_mnist_cnn, "inception-2015-12-05": inception_2015}
REFERENCES = {"fashion-mnist-cnn": CLASS_CONDITIONAL / "reference.npz"}  # those that come with their network


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
    if path is None and name not in REFERENCES:
        raise UserError(f"the extractor {name} needs a reference: make one with `harmonica reference`")
    return Reference.load(path or REFERENCES[name])
