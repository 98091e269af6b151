"""Feature networks: images to what the metrics compare. A table names the one it used."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError, unknown
from harmonica.metrics import Gaussian, frechet_distance, inception_score, precision_recall
from harmonica.pocket import CLASS_CONDITIONAL


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


def fashion_mnist_cnn(reference: bool = True) -> tuple[Callable[[np.ndarray], Features], Reference | None]:
    """The pocket classifier and Fashion-MNIST's training set. Takes uint8 (n, 32, 32, 1)."""
    import torch
    from safetensors.torch import load_file

    from harmonica.pocket.classifier import Classifier
    from harmonica.pocket.data import to_float

    net = Classifier().eval()
    net.load_state_dict(load_file(CLASS_CONDITIONAL / "classifier" / "model.safetensors"))
    net = net.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        parts = [net(to_float(images[i : i + 250, ..., 0])) for i in range(0, len(images), 250)]
        return Features(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))

    return extract, load_reference(CLASS_CONDITIONAL / "reference.npz") if reference else None


def load_reference(path) -> Reference:
    with np.load(path, allow_pickle=False) as f:
        return Reference(Gaussian(f["mu"], f["sigma"]), Gaussian(f["mu_s"], f["sigma_s"]), f["features"])


EXTRACTORS = {"fashion-mnist-cnn": fashion_mnist_cnn}


def get_extractor(name: str) -> tuple[Callable[[np.ndarray], Features], Reference]:
    """The network and its reference. Raises UserError for one that is not there."""
    if name == "inception-2015-12-05":
        raise UserError(
            "metrics at the paper scale need the Inception network and ADM's reference files, which this version does "
            "not read yet; the samples are whole and can be given to the ADM evaluator"
        )
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)
    return EXTRACTORS[name]()


def evaluate(features: Features, reference: Reference) -> dict[str, float]:
    """The distribution metrics of a table row; precision and recall in percent."""
    precision, recall = precision_recall(reference.features, features.pooled)
    return {
        "IS": inception_score(features.logits),
        "FID": frechet_distance(Gaussian.of(features.pooled), reference.pooled),
        "sFID": frechet_distance(Gaussian.of(features.spatial), reference.spatial),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }
