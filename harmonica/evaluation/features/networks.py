"""The feature networks by name."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from harmonica.evaluation.features.base import Features
from harmonica.models import Model
from harmonica.models.catalog import CLASS_CONDITIONAL, TEXT_TO_IMAGE
from harmonica.utils import UserError, content_hash, unknown, weights_folder

TIMM = "timm/"  # what the names of its networks begin with
TIMM_NAME = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")  # they name files, too
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


def inception_2015() -> Callable[[np.ndarray], Features]:
    """Inception as in the ADM evaluator. Takes uint8 (n, H, W, 3)."""
    from harmonica.evaluation.features.inception import inception_features
    from harmonica.models.downloads import require
    from harmonica.utils.devices import require_gpu

    weights = require(INCEPTION_WEIGHTS)
    require_gpu("Inception for the metrics of the paper scale")
    return inception_features(weights)


def timm_network(name: str) -> Callable[[np.ndarray], Features]:
    """A network of timm, for the name "timm/resnet50". Takes uint8 (n, H, W, 3)."""
    from harmonica.evaluation.features.timm_networks import timm_features

    return timm_features(name.removeprefix(TIMM), timm_weights(name))


def timm_weights(name: str) -> Path:
    """Where the weights of a network of timm may be, if timm is not to fetch them."""
    return weights_folder() / TIMM / f"{name.removeprefix(TIMM)}.safetensors"


def classifier(folder) -> Callable[[np.ndarray], Features]:
    """The classifier in a folder of pocket models. Takes uint8 (n, 32, 32) or (n, 32, 32, 3)."""
    from harmonica.evaluation.features.classifier import classifier_features

    return classifier_features(folder)


def fingerprint(name: str) -> str:
    """Content hash of a shipped network; the name of any other network, whose weights have a known checksum, with that
    of weights of one's own."""
    if name.startswith(TIMM) and timm_weights(name).is_file():
        return f"{name}-{content_hash(timm_weights(name))}"
    return content_hash(SHIPPED[name] / WEIGHTS) if name in SHIPPED else name


def shipped(name: str) -> str:
    """Content hash of a shipped network and its reference; the name of any other network."""
    if name in SHIPPED:
        return content_hash(SHIPPED[name] / WEIGHTS, SHIPPED[name] / "reference.npz")
    return fingerprint(name)


def downloads(name: str) -> tuple[str, ...]:
    """The files that `harmonica fetch` fetches for a network; timm fetches its own."""
    return () if name in SHIPPED or name.startswith(TIMM) else (INCEPTION_WEIGHTS,)


WEIGHTS = "classifier/model.safetensors"  # of a shipped network, in its model's folder
SHIPPED = {"fashion-mnist-cnn": CLASS_CONDITIONAL, "noto-emoji-cnn": TEXT_TO_IMAGE}  # networks with their references
EXTRACTORS: dict[str, Callable[[], Callable[[np.ndarray], Features]]] = {
    **{name: partial(classifier, folder) for name, folder in SHIPPED.items()},
    "inception-2015-12-05": inception_2015,
}


def get_extractor(name: str) -> Callable[[np.ndarray], Features]:
    """The network of that name, a function of uint8 images. Raises UserError if it is unknown or its weights are
    missing."""
    check_name(name)
    return timm_network(name) if name.startswith(TIMM) else EXTRACTORS[name]()


def channels(name: str) -> int:
    """Channels of the images that a network takes."""
    return 1 if name == "fashion-mnist-cnn" else 3


def check_model(model: Model) -> None:
    """Raise UserError unless the metrics of a model's images have a network, and something to be compared with."""
    check_name(model.extractor)
    if not model.reference and model.extractor not in SHIPPED:
        raise UserError(
            f"{model.title} has nothing that its images are compared with: name a folder of pictures in the "
            "harmonica.yaml of its folder (reference: …)"
        )


def check_name(name: str) -> None:
    """Raise UserError for an unknown network; whether timm has one is asked when it is loaded."""
    if name not in EXTRACTORS and not TIMM_NAME.fullmatch(name):
        raise unknown("extractor", name, [*EXTRACTORS, f"{TIMM}NAME"])
