"""The definitions behind the metrics, on features and pixels. They follow the ADM evaluator.

Products of features run in float64 on the GPU if there is one; a module that only needs names of metrics loads no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harmonica.evaluation.statistics import bounds
from harmonica.utils import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mu: np.ndarray
    sigma: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> Gaussian:
        """Of features (n, d). Raises UserError for fewer than two."""
        if len(features) < 2:
            raise UserError(f"a covariance needs at least 2 samples, not {len(features)}")
        return Gaussian(*(x.cpu().numpy() for x in _moments(_on_device(features))))


def _on_device(x: np.ndarray) -> Tensor:
    """float64, where products of features are computed: on the GPU if there is one."""
    import torch

    from harmonica.utils.devices import default_device

    return torch.from_numpy(np.ascontiguousarray(x)).to(default_device()).double()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of (n, d), float64."""
    mu = x.mean(0)
    x = x - mu
    sigma = x.new_empty(x.shape[1], x.shape[1])
    for i, j in _triangle(len(sigma)):
        sigma[i:j, i:] = x[:, i:j].mT @ x[:, i:]
        sigma[j:, i:j] = sigma[i:j, j:].mT
    return mu, sigma.div_(len(x) - 1)


BLOCK = 2**25  # numbers of a product in memory at once, float64: 256 MiB


def _triangle(n: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows i to j of an (n, n) symmetric product, to compute from column i on: at most BLOCK numbers.

    Torch has no product that knows of the symmetry: with an eighth of the rows at a time or fewer, this saves at least
    44 % of the operations.
    """
    i = 0
    while i < n:
        j = min(n, i + max(1, min(-(-n // 8), BLOCK // (n - i))))
        yield i, j
        i = j


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Fréchet distance of two Gaussians, ‖μa − μb‖² + tr(Σa + Σb − 2(ΣaΣb)^½) (Heusel et al. 2017)."""
    return frechet(a, b).distance


class Frechet(NamedTuple):
    """The distance, and its gradients: by μa (d,), which is that by μb reversed, and by Σa and Σb (d, d)."""

    distance: float
    d_mu: np.ndarray
    d_sigma_a: np.ndarray
    d_sigma_b: np.ndarray


def frechet(a: Gaussian, b: Gaussian) -> Frechet:
    """The Fréchet distance and its gradients.

    The square root's trace comes from the eigenvalues of M = Rᵀ Σb R with Σa = R Rᵀ, which is symmetric: no complex
    numbers, no ε. T = R M^{−½} Rᵀ carries the second Gaussian to the first: the gradients are I − T^{−1} by Σa and I −
    T by Σb. Directions without variance are left out of both.
    """
    distance, *gradients = _frechet(*(_on_device(x) for x in (a.mu, a.sigma, b.mu, b.sigma)))
    return Frechet(max(0.0, float(distance)), *(x.cpu().numpy() for x in gradients))


def _frechet(mu_a: Tensor, sigma_a: Tensor, mu_b: Tensor, sigma_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    import torch

    w, v = torch.linalg.eigh(sigma_a)
    w = w.clamp(min=0).sqrt()
    root, inverse = v * w, v * _inverse(w)  # inverse.T @ root is the identity where there is variance
    m, u = torch.linalg.eigh(root.mT @ sigma_b @ root)
    m = m.clamp(min=0).sqrt()
    distance = (mu_a - mu_b).square().sum() + sigma_a.trace() + sigma_b.trace() - 2 * m.sum()
    identity = torch.eye(len(w), dtype=w.dtype, device=w.device)
    back, forth = (root @ u) * _inverse(m).sqrt(), (inverse @ u) * m.sqrt()
    return distance, 2 * (mu_a - mu_b), identity - forth @ forth.mT, identity - back @ back.mT


def _inverse(roots: Tensor) -> Tensor:
    """1 / x of square roots of eigenvalues, and 0 for those of the rounding of 0."""
    import torch

    used = roots > 1e-7 * roots.amax()
    return torch.where(used, 1 / torch.where(used, roots, 1.0), 0.0)


def cleanfid_distance(a: Gaussian, b: Gaussian) -> float:
    """The same distance by clean-fid's code (a matrix square root), as a cross-check on the same features."""
    from cleanfid.fid import frechet_distance as theirs

    return float(theirs(a.mu, a.sigma, b.mu, b.sigma))


def fid_infinity(features: np.ndarray, reference: Gaussian, points: int = 15, seed: int = 0) -> float:
    """FID∞ (Chong & Forsyth 2020, arXiv 1911.07023): the FID of features (n, d) that infinitely many images would have.

    A covariance of k images makes the FID too large by nearly b / k, where b depends on the model. A line through the
    FIDs of random subsets, `points` sizes from a tenth of the images on, over 1 / k gives the value at 0. It is an
    estimate that may fall below 0. Subsets have twice as many images as features or more, as the bias is no line below
    that. Raises UserError for fewer than four times as many images as features.
    """
    n, d = features.shape
    if n < 4 * d:
        raise UserError(f"FID∞ of {d} features needs at least {4 * d} images, not {n}")
    sizes = np.linspace(max(n // 10, 2 * d), n, points).round().astype(int)
    rng = np.random.default_rng(seed)
    found = [frechet_distance(Gaussian.of(features[rng.permutation(n)[:k]]), reference) for k in sizes]
    return float(np.polyfit(1 / sizes, found, 1)[1])


def inception_score(divergences: Sequence[np.ndarray]) -> float:
    """Inception score (Salimans et al. 2016): mean over chunks of exp(E KL(p(y|x) ‖ p(y))), from `divergences`."""
    return float(np.mean([np.exp(kl.mean()) for kl in divergences]))


def divergences(logits: np.ndarray, chunk: int = 5000) -> list[np.ndarray]:
    """KL(p(y|x) ‖ p(y)) of every image to the class distribution of its chunk, by chunk, consecutive and unshuffled.

    Chunks are of equal size, as near to `chunk` as possible: a last one of a few images would count as much as the
    others.
    """
    x = logits.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    out = []
    for part in np.array_split(log_p, max(1, round(len(log_p) / chunk))):
        p = np.exp(part)
        out.append((p * (part - np.log(p.mean(0, keepdims=True)))).sum(1))
    return out


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, reference_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features (n, d), each in [0, 1].

    Precision is the share of samples inside the reference manifold, recall the share of references inside that of the
    samples. A manifold's balls reach to each point's k-th neighbour, not counting itself. Sets compared with one
    reference can share its `radii`. Distances are computed in blocks: 50 000 against 10 000 at 2048 dimensions need
    less than 4 GB. Raises UserError for k samples or fewer on a side.
    """
    samples_inside, reached = inside(reference, samples, k, reference_radii)
    return float(samples_inside.mean()), float(reached.any(0).mean())


def inside(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, reference_radii: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The indicators behind `precision_recall`: which samples (n,) are inside the references' manifold, and which
    references each block of samples (blocks, references) reaches by its own balls; see `statistics.bounds`."""
    if min(len(reference), len(samples)) <= k:
        raise UserError(f"precision and recall with k = {k} need more than {k} samples on each side")
    r, s = (_Points.of(_on_device(x)) for x in (reference, samples))
    reach = _radii(r, k) if reference_radii is None else _on_device(reference_radii)
    found = _inside(r, reach, s, _radii(s, k), bounds(len(samples)))
    return found[0].cpu().numpy(), found[1].cpu().numpy()


class _Points(NamedTuple):
    x: Tensor  # (n, d) float64
    norms: Tensor  # (n,) squared

    @staticmethod
    def of(x: Tensor) -> _Points:
        return _Points(x, x.square().sum(1))

    def part(self, i: int, j: int | None = None) -> _Points:
        return _Points(self.x[i:j], self.norms[i:j])

    def distances_to(self, other: _Points) -> Tensor:
        """Squared distances (n, n_other)."""
        import torch

        return torch.addmm(other.norms, self.x, other.x.mT, alpha=-2).add_(self.norms[:, None])


def radii(features: np.ndarray, k: int = 3) -> np.ndarray:
    """Squared distance of every point (n, d) to its k-th neighbour."""
    return _radii(_Points.of(_on_device(features)), k).cpu().numpy()


def _radii(points: _Points, k: int) -> Tensor:
    n = len(points.x)
    nearest = points.x.new_full((n, k + 1), float("nan"))  # topk takes any number before NaN
    for i, j in _triangle(n):
        d = points.part(i, j).distances_to(points.part(i))
        nearest[i:j] = _smallest(nearest[i:j], d)
        nearest[j:] = _smallest(nearest[j:], d[:, j - i :].mT)
    return nearest.amax(1)


def _smallest(known: Tensor, new: Tensor) -> Tensor:
    """The smallest numbers of each row of both, as many as there are in a row of the known ones."""
    import torch

    count = known.shape[1]
    found = new.topk(min(count, new.shape[1]), 1, largest=False, sorted=False)[0]
    return torch.cat([known, found], 1).topk(count, 1, largest=False, sorted=False)[0]


def _inside(
    r: _Points, reach_r: Tensor, s: _Points, reach_s: Tensor, blocks: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Which of the points s a ball of r reaches, and which of r the balls of each block of s reach."""
    import torch

    rows, found = max(1, BLOCK // len(r.x)), []
    reached = torch.zeros((len(blocks), len(r.x)), dtype=torch.bool, device=reach_r.device)
    for b, (start, stop) in enumerate(blocks):
        for i in range(start, stop, rows):
            j = min(i + rows, stop)
            d = s.part(i, j).distances_to(r)
            found.append((d <= reach_r).any(1))
            reached[b] |= (d <= reach_s[i:j, None]).any(0)
    return torch.cat(found), reached


def clip_score(cosines: np.ndarray) -> float:
    """Mean of 100·max(cos, 0) over pictures and their captions; no prompt prefix, and not Hessel's 2.5·cos."""
    return 100 * float(np.maximum(cosines, 0).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB (n,) of uint8 images (n, H, W, C) to others.

    That of equal images would be infinite; it is that of one value in the picture that differs by one. Raises UserError
    if the shapes differ.
    """
    if a.shape != b.shape:
        raise UserError(f"PSNR compares images of one shape, not {a.shape} and {b.shape}")
    error = np.square(a.astype(np.float32) - b.astype(np.float32)).reshape(len(a), -1).mean(1, dtype=np.float64)
    return 10 * np.log10(255**2 / np.maximum(error, 1 / a[0].size))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (n,) (Wang et al. 2004: a Gaussian window, σ 1.5) of uint8 images (n, H, W, C) to others,
    by scikit-image."""
    from skimage.metrics import structural_similarity

    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return np.array([structural_similarity(x, y, channel_axis=-1, **wang) for x, y in zip(a, b, strict=True)])
