"""Intervals of metrics, and of their differences between rows of the same seeds.

A metric is a function of the images' empirical distribution. Its influence function says what each image adds to it, to
first order; the mean influence of a block of images is what a jackknife that deletes the block finds, without computing
the metric again (Efron & Stein 1981). Rows share seeds, so block k of one row has the noise and labels of block k of
any other, and a difference of rows has the difference of their blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCKS = 50
LEVEL = 0.95


def block_means(influence: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Mean influence (≤ blocks,) of consecutive images of equal numbers, to within one, from influences (n,)."""
    parts = np.array_split(np.asarray(influence, np.float64), min(blocks, len(influence)))
    return np.array([part.mean() for part in parts])


def standard_error(blocks: np.ndarray) -> float:
    """Of a metric, from its block means (g,). NaN for fewer than two blocks."""
    g = len(blocks)
    return float(np.std(blocks, ddof=1) / g**0.5) if g > 1 else float("nan")


def interval(value: float, blocks: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The interval (low, high) of a metric, by Student's t with g − 1 degrees of freedom."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, max(len(blocks) - 1, 1)) * standard_error(blocks)
    return value - half, value + half


def p_value(difference: float, blocks: np.ndarray) -> float:
    """Two-sided, that a difference with these block means is 0; 1 for rows that are equal in every block."""
    from scipy import stats

    error = standard_error(blocks)
    if not error > 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, len(blocks) - 1))


def tied_with_best(
    values: Sequence[float], blocks: Sequence[np.ndarray], sign: int, level: float = LEVEL
) -> np.ndarray:
    """Which rows (n,) are the best, or do not differ from it: Holm's procedure over the comparisons with the best.

    `sign` is +1 if higher values are better, else −1.
    """
    v = sign * np.asarray(values, np.float64)
    best = int(np.nanargmax(v))
    others = [k for k in range(len(v)) if k != best and np.isfinite(v[k])]
    p = {k: p_value(v[k] - v[best], np.asarray(blocks[k]) - np.asarray(blocks[best])) for k in others}
    tied = np.zeros(len(v), bool)
    tied[best] = True
    for rank, k in enumerate(sorted(others, key=p.__getitem__)):
        if p[k] > (1 - level) / (len(others) - rank):
            tied[[j for j in others if p[j] >= p[k]]] = True
            break
    return tied


def of_mean(values: np.ndarray) -> np.ndarray:
    """Influence (n,) of each value on their mean."""
    return np.asarray(values, np.float64) - np.mean(values)


def of_moments(features: np.ndarray, d_mu: np.ndarray, d_sigma: np.ndarray, chunk: int = 5000) -> np.ndarray:
    """Influence (n,) of features (n, d) on a function of their mean and covariance with gradients (d,) and (d, d).

    Products are in float32: an error of a millionth of an interval's width does not matter.
    """
    mean, out = features.mean(0, dtype=np.float64).astype(np.float32), []
    d_mu, d_sigma = d_mu.astype(np.float32), d_sigma.astype(np.float32)
    for i in range(0, len(features), chunk):
        part = features[i : i + chunk].astype(np.float32) - mean
        out.append(part @ d_mu + ((part @ d_sigma) * part).sum(1))
    return of_mean(np.concatenate(out))


def of_inception_score(divergences: Sequence[np.ndarray]) -> np.ndarray:
    """Influence (n,) on the mean over chunks of exp(mean KL), from the divergences of each chunk's images. That of an
    image on the marginal class distribution is of second order."""
    n = sum(map(len, divergences))
    parts = [np.exp(kl.mean()) * (kl - kl.mean()) * n / (len(divergences) * len(kl)) for kl in divergences]
    return np.concatenate(parts)


def speedup(reference: Sequence[float], own: Sequence[float]) -> tuple[float, float, float]:
    """How many times faster a plan is: the ratio of median seconds, and the quartiles of the rounds' ratios.

    Both are measured in the same rounds, interleaved.
    """
    ratios = np.asarray(reference) / np.asarray(own)
    q1, q3 = np.quantile(ratios, [0.25, 0.75])
    return float(np.median(reference) / np.median(own)), float(q1), float(q3)
