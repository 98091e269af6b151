"""The metrics of a row of images, as records. Tables, figures, the command line and the checks read them: a new metric
is one entry of METRICS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from harmonica.evaluation import distances as d
from harmonica.evaluation import statistics as s

if TYPE_CHECKING:
    import numpy as np

    from harmonica.evaluation.features.base import Features
    from harmonica.evaluation.references import Reference


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs of a row's metrics; a metric whose input is None is omitted."""

    features: Features
    reference: Reference
    uncached: Evidence | None = None  # of the uncached row of the same seeds
    converged: Evidence | None = None  # of the converged solution of the same seeds, if there is one of every image
    labels: np.ndarray | None = None  # (n,) requested classes
    cosines: np.ndarray | None = None  # (n,) of pictures and their captions
    # image by image, over the first m ≤ n of them that are still there:
    psnr: np.ndarray | None = None  # to the uncached image of the same seed, dB
    ssim: np.ndarray | None = None
    lpips: np.ndarray | None = None
    psnr_converged: np.ndarray | None = None  # to the converged solution of the same seed, dB
    skipped: np.ndarray | None = None  # (n,) shares of steps that were skipped under a rule
    extrapolated: Literal[True] | None = None  # whether the FID is, to infinitely many images

    @cached_property
    def pooled(self) -> d.Gaussian:
        return d.Gaussian.of(self.features.pooled)

    @cached_property
    def spatial(self) -> d.Gaussian:
        return d.Gaussian.of(self.features.spatial)

    @cached_property
    def fid(self) -> d.Frechet:
        return d.frechet(self.pooled, self.reference.pooled)

    @cached_property
    def sfid(self) -> d.Frechet:
        return d.frechet(self.spatial, self.reference.spatial)

    @cached_property
    def fid_uncached(self) -> d.Frechet:
        assert self.uncached is not None
        return d.frechet(self.pooled, self.uncached.pooled)

    @cached_property
    def sfid_uncached(self) -> d.Frechet:
        assert self.uncached is not None
        return d.frechet(self.spatial, self.uncached.spatial)

    @cached_property
    def fid_converged(self) -> d.Frechet:
        assert self.converged is not None
        return d.frechet(self.pooled, self.converged.pooled)

    @cached_property
    def of_pooled(self) -> dict[str, np.ndarray]:
        """Block means of the influences on every distance of pooled features, by the metric's name."""
        sets = {}
        if self.uncached is not None:
            sets["FID_uncached"] = self.uncached.features.pooled, self.fid_uncached
        if self.converged is not None:
            sets["FID_converged"] = self.converged.features.pooled, self.fid_converged
        return dict(zip(("FID", *sets), _of_distances(self.features.pooled, self.fid, *sets.values()), strict=True))

    @cached_property
    def of_spatial(self) -> dict[str, np.ndarray]:
        """Those on distances of spatial features."""
        sets = {}
        if self.uncached is not None:
            sets["sFID_uncached"] = self.uncached.features.spatial, self.sfid_uncached
        return dict(zip(("sFID", *sets), _of_distances(self.features.spatial, self.sfid, *sets.values()), strict=True))

    @cached_property
    def divergences(self) -> list[np.ndarray]:
        """Of every image's classes from those of its chunk, by chunk."""
        return d.divergences(self.features.logits)

    @cached_property
    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """Which images are inside the reference's manifold, and which references each block of images reaches."""
        return d.inside(self.reference.features, self.features.pooled, reference_radii=self.reference.radii)


@dataclass(frozen=True)
class Metric:
    """One metric: its column, how it is printed, which direction is better, and its definition."""

    name: str  # column of a table's csv
    heading: str
    better: Literal["higher", "lower"]
    format: str
    function: Callable[[Any], float]  # of an Evidence
    needs: str = "features"  # the part of the evidence without which it does not apply
    # of an Evidence, (n,) or the means of its blocks, see `statistics`; None: no interval
    influence: Callable[[Any], np.ndarray] | None = None
    logarithmic: bool = False  # distances of two generated sets: over orders of magnitude, their errors grow with them

    @property
    def sign(self) -> int:
        """+1 if higher is better, else −1."""
        return 1 if self.better == "higher" else -1

    def on_log(self, estimate: s.Estimate) -> bool:
        """Whether intervals and comparisons of an estimate are of its logarithm; the distance of a set to itself, 0 but
        for rounding, has none."""
        return self.logarithmic and estimate.value > 1e-9

    def interval(self, estimate: s.Estimate) -> tuple[float, float]:
        """The 95 % interval (low, high) of an estimate of this metric."""
        return estimate.log().exp()[1:] if self.on_log(estimate) else estimate.interval()


def _of_distances(own: np.ndarray, f: d.Frechet, *others: tuple[np.ndarray, d.Frechet]) -> list[np.ndarray]:
    """Block means of the influence of images' features (n, d) on their distance to the reference, and to each of other
    sets (n, d) generated from the same seeds, whose images vary, too."""
    first, *rest = s.of_moments(own, (f.d_mu, f.d_sigma_a), *((g.d_mu, g.d_sigma_a) for _, g in others))
    theirs = [s.of_moments(x, (-g.d_mu, g.d_sigma_b))[0] for x, g in others]
    return [first, *(a + b for a, b in zip(rest, theirs, strict=True))]


def _per_image(name: str, better: Literal["higher", "lower"], format: str, attribute: str) -> tuple[Metric, Metric]:
    """A metric of single images: its mean, and the mean of its worst 5 %."""
    arrow, sign = ("↑", 1) if better == "higher" else ("↓", -1)
    return (
        Metric(name, f"{name} {arrow}", better, format, lambda e: float(getattr(e, attribute).mean()), attribute,
               lambda e: s.of_mean(getattr(e, attribute))),
        Metric(f"{name}_worst", f"{name} of the worst 5 % {arrow}", better, format,
               lambda e: sign * s.worst(sign * getattr(e, attribute)), attribute,
               lambda e: sign * s.of_worst(sign * getattr(e, attribute))),
    )  # fmt: skip


METRICS = {
    m.name: m
    for m in (
        Metric("CLIP", "CLIP ↑", "higher", "{:.2f}", lambda e: d.clip_score(e.cosines), "cosines",
               lambda e: s.of_mean(100 * e.cosines.clip(0))),
        Metric("IS", "IS ↑", "higher", "{:.3f}", lambda e: d.inception_score(e.divergences),
               influence=lambda e: s.of_inception_score(e.divergences)),
        Metric("FID", "FID ↓", "lower", "{:.3f}", lambda e: e.fid.distance,
               influence=lambda e: e.of_pooled["FID"]),
        Metric("cleanfid_FID", "clean-fid ↓", "lower", "{:.3f}",
               lambda e: d.cleanfid_distance(e.pooled, e.reference.pooled)),
        Metric("FID_infinity", "FID∞ ↓", "lower", "{:.3f}",
               lambda e: d.fid_infinity(e.features.pooled, e.reference.pooled), "extrapolated"),
        Metric("sFID", "sFID ↓", "lower", "{:.3f}", lambda e: e.sfid.distance,
               influence=lambda e: e.of_spatial["sFID"]),
        Metric("FID_uncached", "FID to uncached ↓", "lower", "{:.4f}",
               lambda e: e.fid_uncached.distance, "uncached",
               lambda e: e.of_pooled["FID_uncached"], True),
        Metric("sFID_uncached", "sFID to uncached ↓", "lower", "{:.4f}",
               lambda e: e.sfid_uncached.distance, "uncached",
               lambda e: e.of_spatial["sFID_uncached"], True),
        Metric("precision", "Prec. ↑", "higher", "{:.1f}", lambda e: 100 * float(e.inside[0].mean()),
               influence=lambda e: s.of_mean(100.0 * e.inside[0])),
        Metric("recall", "Recall ↑", "higher", "{:.1f}", lambda e: 100 * float(e.inside[1].any(0).mean()),
               influence=lambda e: 100 * s.of_reach(e.inside[1], len(e.inside[0]))),
        *_per_image("PSNR", "higher", "{:.2f}", "psnr"),
        *_per_image("SSIM", "higher", "{:.4f}", "ssim"),
        *_per_image("LPIPS", "lower", "{:.4f}", "lpips"),
        Metric("PSNR_converged", "PSNR to converged ↑", "higher", "{:.2f}", lambda e: float(e.psnr_converged.mean()),
               "psnr_converged", lambda e: s.of_mean(e.psnr_converged)),
        Metric("FID_converged", "FID to converged ↓", "lower", "{:.4f}",
               lambda e: e.fid_converged.distance, "converged",
               lambda e: e.of_pooled["FID_converged"], True),
        Metric("agreement", "Agreement ↑", "higher", "{:.1f}",
               lambda e: 100 * float((e.features.logits.argmax(1) == e.labels).mean()), "labels",
               lambda e: s.of_mean(100.0 * (e.features.logits.argmax(1) == e.labels))),
    )
}  # fmt: skip


def measure(evidence: Evidence) -> dict[str, float]:
    """Every metric that applies; precision, recall and agreement (the network finds the requested class) in percent."""
    return {m.name: m.function(evidence) for m in METRICS.values() if getattr(evidence, m.needs) is not None}


def block_means(evidence: Evidence) -> dict[str, list[float]]:
    """Mean influences of blocks of images on every metric that has them, for intervals and for differences of rows."""
    return {
        m.name: s.block_means(m.influence(evidence)).tolist()
        for m in METRICS.values()
        if m.influence is not None and getattr(evidence, m.needs) is not None
    }
