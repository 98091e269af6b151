"""The metrics of a row of images, as records. Tables, figures, the command line and the checks read them: a new metric
is one entry of METRICS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from harmonica.evaluation import distances as d

if TYPE_CHECKING:
    import numpy as np

    from harmonica.evaluation.features.base import Features
    from harmonica.evaluation.references import Reference


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs of a row's metrics; a metric whose input is None is omitted."""

    features: Features
    reference: Reference
    labels: np.ndarray | None = None  # (n,) requested classes
    squared_error: float | None = None  # per pixel, to the uncached images of the same seeds
    cosines: np.ndarray | None = None  # (n,) of pictures and their captions

    @cached_property
    def pooled(self) -> d.Gaussian:
        return d.Gaussian.of(self.features.pooled)

    @cached_property
    def precision_recall(self) -> tuple[float, float]:
        return d.precision_recall(self.reference.features, self.features.pooled, reference_radii=self.reference.radii)


@dataclass(frozen=True)
class Metric:
    """One metric: its column, how it is printed, which direction is better, and its definition."""

    name: str  # column of a table's csv
    heading: str
    better: Literal["higher", "lower"]
    format: str
    function: Callable[[Any], float]  # of an Evidence
    needs: str = "features"  # the part of the evidence without which it does not apply

    @property
    def sign(self) -> int:
        """+1 if higher is better, else −1."""
        return 1 if self.better == "higher" else -1


METRICS = {
    m.name: m
    for m in (
        Metric("CLIP", "CLIP ↑", "higher", "{:.2f}", lambda e: d.clip_score(e.cosines), "cosines"),
        Metric("IS", "IS ↑", "higher", "{:.3f}", lambda e: d.inception_score(e.features.logits)),
        Metric("FID", "FID ↓", "lower", "{:.3f}", lambda e: d.frechet_distance(e.pooled, e.reference.pooled)),
        Metric("cleanfid_FID", "clean-fid ↓", "lower", "{:.3f}",
               lambda e: d.cleanfid_distance(e.pooled, e.reference.pooled)),
        Metric("sFID", "sFID ↓", "lower", "{:.3f}",
               lambda e: d.frechet_distance(d.Gaussian.of(e.features.spatial), e.reference.spatial)),
        Metric("precision", "Prec. ↑", "higher", "{:.1f}", lambda e: 100 * e.precision_recall[0]),
        Metric("recall", "Recall ↑", "higher", "{:.1f}", lambda e: 100 * e.precision_recall[1]),
        Metric("PSNR", "PSNR ↑", "higher", "{:.2f}", lambda e: d.psnr(e.squared_error), "squared_error"),
        Metric("agreement", "Agreement ↑", "higher", "{:.1f}",
               lambda e: 100 * float((e.features.logits.argmax(1) == e.labels).mean()), "labels"),
    )
}  # fmt: skip


def measure(evidence: Evidence) -> dict[str, float]:
    """Every metric that applies; precision, recall and agreement (the network finds the requested class) in percent."""
    return {m.name: m.function(evidence) for m in METRICS.values() if getattr(evidence, m.needs) is not None}
