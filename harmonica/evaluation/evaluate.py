"""Evidence for the metrics, chunk by chunk: 50 000 images of 512² do not fit into memory, their features do."""

from collections.abc import Callable

import numpy as np

from harmonica.evaluation import generate
from harmonica.evaluation.distances import squared_error
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.metrics import Evidence, measure
from harmonica.evaluation.references import Reference
from harmonica.utils import UserError


def evaluate(
    name: str, files: list[str], uncached: list[str], extract: Callable, reference: Reference, clip=None, captions=()
) -> dict:
    """All metrics of the images in `files`, generated from the same seeds as those in `uncached`, and their number N.

    If labels are indices of `captions`, `clip` (features.clip.Clip) scores them. Raises UserError if chunks are
    damaged, missing, or of other seeds.
    """
    features, labels, errors, cosines = [], [], [], []
    if len(files) != len(uncached):
        raise UserError(f"{name} has {len(files)} chunks of images, the uncached model {len(uncached)}")
    for (images, own), (plain, other) in zip(generate.chunks(files), generate.chunks(uncached), strict=True):
        if len(own) != len(other) or (own != other).any():
            raise UserError(f"{name} and the uncached images do not have the same seeds")
        features.append(extract(images))
        labels.append(own)
        errors.append((squared_error(images, plain), len(images)))
        if clip:
            cosines.append(clip.cosines(images, [captions[k] for k in own]))
    requested = np.concatenate(labels)
    evidence = Evidence(
        Features.join(features), reference,
        labels=None if clip else requested,
        squared_error=sum(e * n for e, n in errors) / len(requested),
        cosines=np.concatenate(cosines) if clip else None,
    )  # fmt: skip
    return measure(evidence) | {"N": len(requested)}
