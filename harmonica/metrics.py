"""Every metric is defined here, once, on features and pixels; numpy only. Definitions follow the ADM evaluator.

Features: pooled (n, d) for FID and precision/recall, spatial (n, d_s) for sFID, logits (n, classes) for IS.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.errors import UserError


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
    samples. A manifold's balls reach to each point's k-th neighbour, itself not counted. Sets that are compared with
    one reference can share its `radii`.
    """
    if min(len(reference), len(samples)) <= k:
        raise UserError(f"precision and recall with k = {k} need more than {k} samples on each side")
    r, s = reference.astype(np.float64), samples.astype(np.float64)
    if reference_radii is None:
        reference_radii = radii(r, k)
    return _share_inside(r, reference_radii, s), _share_inside(s, radii(s, k), r)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)


def radii(x: np.ndarray, k: int = 3, chunk: int = 1000) -> np.ndarray:
    """Squared distance of every point (n, d) to its k-th neighbour."""
    x = x.astype(np.float64)
    rows = (_squared_distances(x[i : i + chunk], x) for i in range(0, len(x), chunk))
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for d in rows])


def _share_inside(centres: np.ndarray, reach: np.ndarray, points: np.ndarray, chunk: int = 1000) -> float:
    rows = (_squared_distances(points[i : i + chunk], centres) for i in range(0, len(points), chunk))
    return float(np.concatenate([(d <= reach).any(1) for d in rows]).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images of one shape, from the squared error averaged over all of them.

    Infinite for equal images.
    """
    if a.shape != b.shape:
        raise UserError(f"PSNR compares images of one shape, not {a.shape} and {b.shape}")
    error = np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, dtype=np.float64)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
