"""Feature networks: images to what the metrics compare. A table names the one it used."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.errors import UserError, unknown
from harmonica.metrics import Gaussian, frechet_distance, inception_score, precision_recall, radii
from harmonica.pocket import CLASS_CONDITIONAL
from harmonica.provenance import source_hash


@dataclass(frozen=True, eq=False)
class Features:
    pooled: np.ndarray  # (n, d)
    spatial: np.ndarray  # (n, d_s)
    logits: np.ndarray  # (n, classes)


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the whole reference set and pooled features of 10 000 of its images."""

    pooled: Gaussian
    spatial: Gaussian
    features: np.ndarray

    @cached_property
    def radii(self) -> np.ndarray:
        return radii(self.features)


def fashion_mnist_cnn(folder: Path = CLASS_CONDITIONAL) -> tuple[Callable[[np.ndarray], Features], Reference]:
    """The pocket classifier and Fashion-MNIST's training set. Takes uint8 (n, 32, 32, 1)."""
    return classifier_features(folder), load_reference(folder / "reference.npz")


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


def load_reference(path: Path) -> Reference:
    with np.load(path, allow_pickle=False) as f:
        return Reference(Gaussian(f["mu"], f["sigma"]), Gaussian(f["mu_s"], f["sigma_s"]), f["features"])


def fingerprint(name: str) -> str:
    """Changes with the network and its reference, where they are files of ours."""
    if name != "fashion-mnist-cnn":
        return name
    return source_hash(*(str(CLASS_CONDITIONAL / f) for f in ("classifier/model.safetensors", "reference.npz")))


EXTRACTORS = {"fashion-mnist-cnn": fashion_mnist_cnn}


def get_extractor(name: str) -> tuple[Callable[[np.ndarray], Features], Reference]:
    """The network and its reference. Raises UserError for one that is not there."""
    check(name)
    return EXTRACTORS[name]()


def check(name: str) -> None:
    """Raise UserError for an extractor that is not there."""
    if name == "inception-2015-12-05":
        raise UserError(
            "metrics at the paper scale need the Inception network and ADM's reference files, which this version does "
            "not read yet"
        )
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)


def evaluate(features: Features, reference: Reference) -> dict[str, float]:
    """The distribution metrics of a table row; precision and recall in percent."""
    precision, recall = precision_recall(reference.features, features.pooled, reference_radii=reference.radii)
    return {
        "IS": inception_score(features.logits),
        "FID": frechet_distance(Gaussian.of(features.pooled), reference.pooled),
        "sFID": frechet_distance(Gaussian.of(features.spatial), reference.spatial),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }
