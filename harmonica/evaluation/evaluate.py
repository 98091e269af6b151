"""Evidence for the metrics, chunk by chunk: 50 000 images of 512² do not fit into memory, their features do."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harmonica.evaluation import generate
from harmonica.evaluation.distances import squared_error
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.metrics import Evidence, block_means, measure
from harmonica.evaluation.references import Reference
from harmonica.utils import UserError


def extractor(name: str, extract: Callable, clip=None, captions=()) -> generate.Extract:
    """What is stored of images and labels: the features by the network `name`, and if labels are indices of `captions`
    the cosines (n,) by `clip` (features.clip.Clip)."""

    def stored(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        f = extract(images)
        out = {"pooled": f.pooled, "spatial": f.spatial, "logits": f.logits, "extractor": np.array(name)}
        if clip:
            out |= {"cosines": clip.cosines(images, [captions[k] for k in labels]), "clip": np.array(clip.name)}
        return out

    return stored


def gather(
    name: str,
    files: list[str],
    uncached: list[str],
    extract: generate.Extract,
    reference: Reference,
    about: dict,
    base: Evidence | None = None,
) -> Evidence:
    """The evidence of the images in `files`, generated from the same seeds as those in `uncached`; `base` is the
    evidence of those, if they are others.

    Features that were stored with the images are used if they are by the networks in `about` ("extractor" and maybe
    "clip_model"), else `extract` makes them. PSNR is over the images that both rows still have. Raises UserError if
    chunks are damaged, missing, of other seeds, or dropped after features of another network.
    """
    parts: list[dict[str, np.ndarray]] = []
    labels, error, pairs = [], 0.0, 0
    if len(files) != len(uncached):
        raise UserError(f"{name} has {len(files)} chunks of images, the uncached model {len(uncached)}")
    chunks = generate.chunks(files)
    both = ((c, c) for c in chunks) if files == uncached else zip(chunks, generate.chunks(uncached), strict=True)
    for own, plain in both:
        if len(own.labels) != len(plain.labels) or (own.labels != plain.labels).any():
            raise UserError(f"{name} and the uncached images do not have the same seeds")
        parts.append(_features(name, own, extract, about))
        labels.append(own.labels)
        if own.images is not None and plain.images is not None:
            error += squared_error(own.images, plain.images) * len(own.labels)
            pairs += len(own.labels)
    has_captions = "clip_model" in about
    evidence = Evidence(
        Features.join([Features(p["pooled"], p["spatial"], p["logits"]) for p in parts]), reference, base,
        labels=None if has_captions else np.concatenate(labels),
        squared_error=error / pairs if pairs else None, pairs=pairs,
        cosines=np.concatenate([p["cosines"] for p in parts]) if has_captions else None,
    )  # fmt: skip
    return evidence if base else replace(evidence, uncached=evidence)  # the control: its distance to itself reads 0


def results(evidence: Evidence) -> dict:
    """All metrics of a row, "blocks", their block means, and the numbers of images N, and N_pairs that PSNR is of."""
    found = measure(evidence) | {"blocks": block_means(evidence)}
    return found | {"N": len(evidence.features.pooled), "N_pairs": evidence.pairs}


def _features(name: str, chunk: generate.Chunk, extract: generate.Extract, about: dict) -> dict[str, np.ndarray]:
    stored = chunk.features
    if stored is not None:
        networks = {k: str(stored[v]) for k, v in (("extractor", "extractor"), ("clip_model", "clip")) if v in stored}
        if networks == about:
            return stored
        if chunk.images is None:
            raise UserError(f"the images of {name} were dropped after features by {', '.join(networks.values())}")
    assert chunk.images is not None
    return extract(chunk.images, chunk.labels)
