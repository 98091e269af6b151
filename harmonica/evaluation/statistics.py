"""Intervals of metrics, and of their differences between rows of the same seeds.

A metric is a function of the images' empirical distribution. Its influence function says what each image adds to it, to
first order; the mean influence of a block of images is what a jackknife that deletes the block finds, without computing
the metric again (Efron & Stein 1981). Rows share seeds, so block k of one row has the noise and labels of block k of
any other, and a difference of rows has the difference of their blocks. A learned row over several training seeds varies
with those, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[float] | np.ndarray
BLOCKS = 50
LEVEL = 0.95
WORST = 0.05  # share of a row's images that a metric's worst case is over


def bounds(n: int, blocks: int = BLOCKS) -> list[tuple[int, int]]:
    """First image of each block of consecutive images and the first after it; equal numbers, to within one."""
    ends = [int(part[-1]) + 1 for part in np.array_split(np.arange(n), min(blocks, n))]
    return list(zip([0, *ends], ends, strict=False))


def block_means(influence: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Mean influence (≤ blocks,) of every block of images, from influences (n,)."""
    values = np.asarray(influence, np.float64)
    return np.array([values[i:j].mean() for i, j in bounds(len(values), blocks)])


def standard_error(blocks: np.ndarray) -> float:
    """Of a metric, from its block means (g,). NaN for fewer than two blocks."""
    g = len(blocks)
    return float(np.std(blocks, ddof=1) / g**0.5) if g > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric of a row, or the difference of two: its value, its block means (g,) over the images, and the values of
    each training seed (k,) of the rows in it, whose mean the value is."""

    value: float
    blocks: np.ndarray
    by_seed: tuple[np.ndarray, ...] = ()

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference to a row of images of the same seeds; the seeds of trainings are independent."""
        return Estimate(self.value - other.value, self.blocks - other.blocks, self.by_seed + other.by_seed)

    def log(self) -> Estimate:
        """Its logarithm, to first order; of a distance whose sampling error grows with it, and which is never below 0.
        Raises ValueError for a value that is not above 0."""
        if not self.value > 0:
            raise ValueError(f"no logarithm of {self.value}")
        return Estimate(math.log(self.value), self.blocks / self.value, tuple(x / self.value for x in self.by_seed))

    @property
    def _variances(self) -> list[tuple[float, int]]:
        """Of the mean, with their degrees of freedom: over images, and over the training seeds of each row."""
        seeds = [(float(np.var(x, ddof=1)) / len(x), len(x) - 1) for x in self.by_seed if len(x) > 1]
        return [(standard_error(self.blocks) ** 2, max(len(self.blocks) - 1, 1)), *seeds]

    @property
    def error(self) -> float:
        """The standard error: of images and training seeds together."""
        return float(sum(v for v, _ in self._variances) ** 0.5)

    @property
    def freedom(self) -> float:
        """Degrees of freedom, by Welch and Satterthwaite."""
        parts = self._variances
        below = sum(v**2 / f for v, f in parts)
        return sum(v for v, _ in parts) ** 2 / below if below > 0 else parts[0][1]

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high), by Student's t."""
        from scipy import stats

        half = stats.t.ppf((1 + level) / 2, self.freedom) * self.error
        return self.value - half, self.value + half

    def exp(self) -> tuple[float, float, float]:
        """Value and interval (low, high) of what this is the logarithm of; finite, however wide."""
        value, low, high = (math.exp(min(x, 700.0)) for x in (self.value, *self.interval()))
        return value, low, high

    def p_value(self) -> float:
        """Two-sided, that the value is 0; 1 for rows that are equal in every block."""
        from scipy import stats

        if not self.error > 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


def tied_with_best(rows: Sequence[Estimate], sign: int, level: float = LEVEL) -> np.ndarray:
    """Which rows (n,) are the best, or do not differ from it: Holm's procedure over the comparisons with the best.

    `sign` is +1 if higher values are better, else −1.
    """
    v = sign * np.array([row.value for row in rows], np.float64)
    best = int(np.nanargmax(v))
    others = [k for k in range(len(v)) if k != best and np.isfinite(v[k])]
    p = {k: (rows[k] - rows[best]).p_value() for k in others}
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


def of_reach(reached: np.ndarray, n: int) -> np.ndarray:
    """Influence (n,) of images on the share of references that any of them reaches, from which references each block
    of the images (blocks, references) reaches: what a jackknife finds that deletes the block and leaves the others'
    reach as it is. (With their reach found anew it would be too wide by a third or more, since it grows then.)"""
    only = reached & (reached.sum(0) == 1)
    lost = (len(reached) - 1) * of_mean(only.mean(1))
    return np.concatenate([np.full(j - i, x) for x, (i, j) in zip(lost, bounds(n, len(reached)), strict=True)])


def of_worst(values: np.ndarray, share: float = WORST) -> np.ndarray:
    """Influence (n,) of each value on the mean of the lowest `share` of them."""
    border = np.quantile(values, share)
    return of_mean(np.minimum(np.asarray(values, np.float64) - border, 0) / share)


def worst(values: np.ndarray, share: float = WORST) -> float:
    """The mean of the lowest `share` of the values (n,), at least one."""
    return float(np.sort(values)[: max(1, round(share * len(values)))].mean())


def of_moments(
    features: np.ndarray, *gradients: tuple[np.ndarray, np.ndarray], blocks: int = BLOCKS
) -> list[np.ndarray]:
    """Block means (≤ blocks,) of the influence of features (n, d) on functions of their mean and covariance, one for
    the gradients (d,) and (d, d) of each.

    Of an image x, less the mean, it is gᵀx + xᵀGx; the mean of the latter over a block is the sum of G times the
    block's second moment, element by element, which all functions share and whose product is symmetric: a quarter of
    the operations of two functions image by image. Products are in float32: an error of a millionth of an interval's
    width does not matter.
    """
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    pairs = [(d_mu.astype(np.float32), d_sigma.astype(np.float32)) for d_mu, d_sigma in gradients]
    sizes, found = [], []
    for i, j in bounds(len(features), blocks):
        part = features[i:j].astype(np.float32) - mean
        moment = part.T @ part / np.float32(j - i)
        found.append([part.mean(0) @ d_mu + np.vdot(moment, d_sigma) for d_mu, d_sigma in pairs])
        sizes.append(j - i)
    values = np.array(found, np.float64).T
    return list(values - np.average(values, axis=1, weights=sizes)[:, None])


def of_inception_score(divergences: Sequence[np.ndarray]) -> np.ndarray:
    """Influence (n,) on the mean over chunks of exp(mean KL), from the divergences of each chunk's images. That of an
    image on the marginal class distribution is of second order."""
    n = sum(map(len, divergences))
    parts = [np.exp(kl.mean()) * (kl - kl.mean()) * n / (len(divergences) * len(kl)) for kl in divergences]
    return np.concatenate(parts)


def settled(reference: Numbers, own: Numbers, tolerance: float) -> bool:
    """Whether the quartiles of the rounds' ratios are within `tolerance` of the speed-up, relative."""
    ratio, q1, q3 = speedup(reference, own)
    return max(abs(q1 - ratio), abs(q3 - ratio)) <= tolerance * ratio


def speedup(reference: Numbers, own: Numbers) -> tuple[float, float, float]:
    """How many times faster a plan is: the ratio of median seconds, and the quartiles of the rounds' ratios.

    Both are measured in the same rounds, interleaved.
    """
    ratios = np.asarray(reference) / np.asarray(own)
    q1, q3 = np.quantile(ratios, [0.25, 0.75])
    return float(np.median(reference) / np.median(own)), float(q1), float(q3)
