"""The metrics of drawn images, chunk by chunk: 50 000 images of 512² do not fit into memory, their features do."""

from collections.abc import Callable

import numpy as np

from harmonica import shards
from harmonica.errors import UserError
from harmonica.extractors import Features, Reference
from harmonica.metrics import (
    Gaussian,
    cleanfid_distance,
    clip_score,
    frechet_distance,
    inception_score,
    precision_recall,
    psnr,
    squared_error,
)


def evaluate(
    name: str, files: list[str], uncached: list[str], extract: Callable, reference: Reference, clip=None, captions=()
) -> dict:
    """All metrics of the images in `files`, drawn from the same seeds as those in `uncached`.

    Precision, recall and agreement (the network finds the asked class) are in percent; where labels are the numbers of
    `captions`, `clip` (clip.Clip) gives their score instead. Raises UserError for chunks that are damaged, missing, or
    of other seeds.
    """
    features, labels, errors, cosines = [], [], [], []
    if len(files) != len(uncached):
        raise UserError(f"{name} has {len(files)} chunks of images, the uncached model {len(uncached)}")
    for (images, asked), (plain, plain_asked) in zip(shards.chunks(files), shards.chunks(uncached), strict=True):
        if len(asked) != len(plain_asked) or (asked != plain_asked).any():
            raise UserError(f"{name} and the uncached images were not drawn from the same seeds")
        features.append(extract(images))
        labels.append(asked)
        errors.append((squared_error(images, plain), len(images)))
        if clip:
            cosines.append(clip.cosines(images, [captions[k] for k in asked]))
    f, asked = Features.join(features), np.concatenate(labels)
    mse = sum(e * n for e, n in errors) / len(asked)
    found = distances(f, reference) | {"PSNR": psnr(mse), "N": len(asked)}
    if clip:
        return found | {"CLIP": clip_score(np.concatenate(cosines))}
    return found | {"agreement": 100 * float((f.logits.argmax(1) == asked).mean())}


def distances(features: Features, reference: Reference) -> dict[str, float]:
    """The distribution metrics of a table row; precision and recall in percent."""
    precision, recall = precision_recall(reference.features, features.pooled, reference_radii=reference.radii)
    pooled = Gaussian.of(features.pooled)
    return {
        "IS": inception_score(features.logits),
        "FID": frechet_distance(pooled, reference.pooled),
        "cleanfid_FID": cleanfid_distance(pooled, reference.pooled),
        "sFID": frechet_distance(Gaussian.of(features.spatial), reference.spatial),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }
