"""The definitions behind the metrics, on features and pixels; numpy only. They follow the ADM evaluator."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harmonica.utils import UserError


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mu: np.ndarray
    sigma: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> "Gaussian":
        if len(features) < 2:
            raise UserError(f"a covariance needs at least 2 samples, not {len(features)}")
        x = features.astype(np.float64)
        return Gaussian(x.mean(0), np.cov(x, rowvar=False))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Fréchet distance of two Gaussians, ‖μa − μb‖² + tr(Σa + Σb − 2(ΣaΣb)^½) (Heusel et al. 2017).

    The square root's trace comes from the eigenvalues of √Σa Σb √Σa, which is symmetric: no complex numbers, no ε.
    """
    w, v = np.linalg.eigh(a.sigma)
    root = (v * np.sqrt(w.clip(0))) @ v.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.sigma @ root).clip(0)).sum()
    return float(((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross)


def cleanfid_distance(a: Gaussian, b: Gaussian) -> float:
    """The same distance by clean-fid's code (a matrix square root), as a cross-check on the same features."""
    from cleanfid.fid import frechet_distance as theirs

    return float(theirs(a.mu, a.sigma, b.mu, b.sigma))


def inception_score(logits: np.ndarray, chunk: int = 5000) -> float:
    """Inception score (Salimans et al. 2016): mean over consecutive chunks of exp(E KL(p(y|x) ‖ p(y))), unshuffled."""
    x = logits.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    scores = []
    for i in range(0, len(log_p), chunk):
        part = log_p[i : i + chunk]
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(0, keepdims=True)))).sum(1).mean()))
    return float(np.mean(scores))


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, reference_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features (n, d), each in [0, 1].

    Precision is the share of samples inside the reference manifold, recall the share of references inside that of the
    samples. A manifold's balls reach to each point's k-th neighbour, not counting itself. Sets compared with one
    reference can share its `radii`. Distances are computed in blocks: 50 000 against 10 000 at 2048 dimensions need
    less than 4 GB. Raises UserError for k samples or fewer on a side.
    """
    if min(len(reference), len(samples)) <= k:
        raise UserError(f"precision and recall with k = {k} need more than {k} samples on each side")
    r, s = _Points.of(reference), _Points.of(samples)
    if reference_radii is None:
        reference_radii = _radii(r, k)
    return _share_inside(r, reference_radii, s), _share_inside(s, _radii(s, k), r)


BLOCK = 2**25  # distances in memory at once, float64: 256 MiB


class _Points(NamedTuple):
    x: np.ndarray  # (n, d) float64
    norms: np.ndarray  # (n,) squared

    @staticmethod
    def of(features: np.ndarray) -> "_Points":
        x = np.asarray(features, np.float64)
        return _Points(x, np.einsum("ij,ij->i", x, x))

    def distances_to(self, other: "_Points") -> Iterator[np.ndarray]:
        """Squared distances (m, n_other) of consecutive points, m such that a block has at most BLOCK numbers."""
        rows = max(1, BLOCK // len(other.x))
        for i in range(0, len(self.x), rows):
            d = self.x[i : i + rows] @ other.x.T
            d *= -2
            d += self.norms[i : i + rows, None]
            d += other.norms
            yield d


def radii(features: np.ndarray, k: int = 3) -> np.ndarray:
    """Squared distance of every point (n, d) to its k-th neighbour."""
    return _radii(_Points.of(features), k)


def _radii(points: _Points, k: int) -> np.ndarray:
    out = []
    for d in points.distances_to(points):
        d.partition(k, axis=1)
        out.append(d[:, k].copy())
    return np.concatenate(out)


def _share_inside(centres: _Points, reach: np.ndarray, points: _Points) -> float:
    return float(np.concatenate([(d <= reach).any(1) for d in points.distances_to(centres)]).mean())


def clip_score(cosines: np.ndarray) -> float:
    """Mean of 100·max(cos, 0) over pictures and their captions; no prompt prefix, and not Hessel's 2.5·cos."""
    return 100 * float(np.maximum(cosines, 0).mean())


def squared_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference of uint8 images of one shape. Raises UserError if the shapes differ."""
    if a.shape != b.shape:
        raise UserError(f"PSNR compares images of one shape, not {a.shape} and {b.shape}")
    return float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, dtype=np.float64))


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB from the squared error averaged over all pixels of all images; inf at 0."""
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(255**2 / mean_squared_error))
