"""Evidence for the metrics, chunk by chunk: 50 000 images of 512² do not fit into memory, their features do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.evaluation import distances as d
from harmonica.evaluation import generate
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import fingerprint
from harmonica.evaluation.metrics import Evidence, block_means, measure
from harmonica.evaluation.references import Reference
from harmonica.utils import UserError


def extractor(name: str, extract: Callable, clip=None, captions=()) -> generate.Extract:
    """What is stored of images and labels: the features by the network `name`, and if labels are indices of `captions`
    the cosines (n,) by `clip` (features.clip.Clip)."""

    def stored(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        f = extract(images)
        if not all(np.isfinite(x).all() for x in (f.pooled, f.spatial, f.logits)):
            raise UserError(f"features of {name} are not finite: its weights are damaged")
        out = {"pooled": f.pooled, "spatial": f.spatial, "logits": f.logits, "extractor": np.array(name),
               "network": np.array(fingerprint(name))}  # fmt: skip
        if clip:
            out |= {"cosines": clip.cosines(images, [captions[k] for k in labels]), "clip": np.array(clip.name)}
        return out

    return stored


@dataclass(frozen=True, eq=False)
class Targets:
    """What the images of a case's rows are compared with, image by image of the same seeds."""

    uncached: list[str]  # chunk files of the uncached row
    base: Evidence | None = None  # of those; None while it is gathered itself
    converged: np.ndarray | None = None  # the first images uint8 (m, H, W, C) of the converged solution
    of_converged: Evidence | None = None  # if there is one of every image
    lpips: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # the network's distance of images


def gather(
    name: str, files: list[str], targets: Targets, extract: generate.Extract, reference: Reference, about: dict
) -> Evidence:
    """The evidence of the images in `files`, generated from the same seeds as the targets.

    Features that were stored with the images are used if they are by the networks in `about` ("extractor", as it is
    now, and maybe "clip_model"), else `extract` makes them. Images are compared as far as both rows still have them.
    Raises UserError if chunks are damaged, missing, of other seeds, or dropped after features of another network.
    """
    parts: list[dict[str, np.ndarray]] = []
    labels, pairs, skipped = [], _Pairs(targets), []
    if len(files) != len(targets.uncached):
        raise UserError(f"{name} has {len(files)} chunks of images, the uncached model {len(targets.uncached)}")
    names = (sorted(Path(f).name for f in own) for own in (files, targets.uncached))  # they say first and last image
    for mine, theirs in zip(*names, strict=True):
        if mine != theirs:
            raise UserError(f"{name} and the uncached images are not the same ones: {mine} stands beside {theirs}")
    chunks, is_base = generate.chunks(files), files == targets.uncached
    both = ((c, c) for c in chunks) if is_base else zip(chunks, generate.chunks(targets.uncached), strict=True)
    for own, plain in both:
        if len(own.labels) != len(plain.labels) or (own.labels != plain.labels).any():
            raise UserError(f"{name} and the uncached images do not have the same seeds")
        parts.append(_features(name, own, extract, about))
        labels.append(own.labels)
        skipped += [] if own.skipped is None else [own.skipped.mean((1, 2))]
        pairs.add(own.images, None if is_base else plain.images)
    has_captions = "clip_model" in about
    evidence = Evidence(
        Features.join([Features(p["pooled"], p["spatial"], p["logits"]) for p in parts]), reference, targets.base,
        converged=targets.of_converged, labels=None if has_captions else np.concatenate(labels),
        cosines=np.concatenate([p["cosines"] for p in parts]) if has_captions else None,
        skipped=np.concatenate(skipped) if skipped else None, **pairs.joined(),
    )  # fmt: skip
    return replace(evidence, uncached=evidence) if is_base else evidence  # the control: its distance to itself reads 0


class _Pairs:
    """Comparisons of single images, added chunk by chunk."""

    def __init__(self, targets: Targets):
        self.targets, self.seen = targets, 0
        self.found: dict[str, list[np.ndarray]] = {k: [] for k in ("psnr", "ssim", "lpips", "psnr_converged")}

    def add(self, own: np.ndarray | None, plain: np.ndarray | None) -> None:
        """The next images of a row and of the uncached row, uint8 (n, H, W, C); None if they were dropped."""
        if own is None:
            return
        if plain is not None:
            self.found["psnr"].append(d.psnr(own, plain))
            self.found["ssim"].append(d.ssim(own, plain))
            if self.targets.lpips:
                self.found["lpips"].append(self.targets.lpips(own, plain))
        if self.targets.converged is not None:
            target = self.targets.converged[self.seen : self.seen + len(own)]
            if len(target):
                self.found["psnr_converged"].append(d.psnr(own[: len(target)], target))
        self.seen += len(own)

    def joined(self) -> dict[str, Any]:
        """By its name in Evidence, what was compared."""
        return {k: np.concatenate(x) for k, x in self.found.items() if x}


def results(evidence: Evidence) -> dict:
    """All metrics of a row, "blocks", their block means, the numbers of images N, N_pairs that were compared with the
    uncached ones, and N_converged with the converged ones; of a rule "skipped" and "skipped_sd", mean and standard
    deviation, over images, of the share of steps that were skipped."""
    compared = {"N_pairs": evidence.psnr, "N_converged": evidence.psnr_converged}
    sizes = {"N": len(evidence.features.pooled)} | {k: len(x) for k, x in compared.items() if x is not None}
    x = evidence.skipped
    shares = {} if x is None else {"skipped": float(x.mean()), "skipped_sd": float(x.std())}
    return measure(evidence) | {"blocks": block_means(evidence)} | sizes | shares


def _features(name: str, chunk: generate.Chunk, extract: generate.Extract, about: dict) -> dict[str, np.ndarray]:
    stored = chunk.features
    if stored is not None:
        networks = {k: str(stored[v]) for k, v in (("extractor", "extractor"), ("clip_model", "clip")) if v in stored}
        if networks == about and str(stored["network"]) == fingerprint(about["extractor"]):
            return stored
        if chunk.images is None:
            raise UserError(f"the images of {name} were dropped after features by {', '.join(networks.values())}")
    assert chunk.images is not None
    return extract(chunk.images, chunk.labels)
