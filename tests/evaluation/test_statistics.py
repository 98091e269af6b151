"""Intervals against a jackknife that computes the metric again without each block, and their coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonica.evaluation import distances as d
from harmonica.evaluation import statistics as s
from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.metrics import METRICS, Evidence, block_means, measure
from harmonica.evaluation.references import Reference


def deleted(function, n: int, blocks: int = s.BLOCKS) -> np.ndarray:
    """The metric without each block of images: the slow way."""
    parts = np.array_split(np.arange(n), blocks)
    return np.array([function(np.setdiff1d(np.arange(n), part)) for part in parts])


def jackknife_error(values: np.ndarray) -> float:
    g = len(values)
    return float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))


def gaussians(seed: int, n: int, dim: int, shift: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((dim, dim)) / dim**0.5
    return shift + rng.standard_normal((n, dim)) @ mixing


REFERENCE = Gaussian.of(gaussians(99, 20_000, 8, 0.0))


def test_gradients_of_the_frechet_distance():
    """By finite differences, in any symmetric direction."""
    a, b = Gaussian.of(gaussians(0, 400, 6)), Gaussian.of(1.3 * gaussians(1, 400, 6))
    f, rng, step = d.frechet(a, b), np.random.default_rng(2), 1e-5
    direction = rng.standard_normal((6, 6))
    direction += direction.T

    def along(which: str, size: float) -> float:
        moved = {"mu": (Gaussian(a.mu + size * direction[0], a.sigma), b),
                 "a": (Gaussian(a.mu, a.sigma + size * direction), b),
                 "b": (a, Gaussian(b.mu, b.sigma + size * direction))}  # fmt: skip
        return d.frechet_distance(*moved[which])

    for which, gradient in (("mu", f.d_mu), ("a", f.d_sigma_a), ("b", f.d_sigma_b)):
        slope = (along(which, step) - along(which, -step)) / (2 * step)
        expected = (gradient * (direction[0] if which == "mu" else direction)).sum()
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_distance_to_itself_has_no_gradient():
    a = Gaussian.of(gaussians(0, 400, 6))
    f = d.frechet(a, a)
    assert abs(f.distance) < 1e-10
    for gradient in f[1:]:
        np.testing.assert_allclose(gradient, 0, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_frechet_interval_is_the_jackknifes(scale):
    x = scale * gaussians(3, 2000, 8)
    f = d.frechet(Gaussian.of(x), REFERENCE)
    fast = s.standard_error(*s.of_moments(x, (f.d_mu, f.d_sigma_a)))
    slow = jackknife_error(deleted(lambda kept: d.frechet_distance(Gaussian.of(x[kept]), REFERENCE), len(x)))
    assert fast == pytest.approx(slow, rel=0.03)


@pytest.mark.parametrize("n", [30, 1003])  # fewer images than blocks, blocks of unequal sizes
def test_influences_on_moments_by_blocks_are_those_of_the_images(n):
    """gᵀx + xᵀGx of every image x less the mean; of two functions in one pass."""
    x, rng = gaussians(5, n, 6) + 3, np.random.default_rng(6)
    gradients = [(rng.standard_normal(6), (g := rng.standard_normal((6, 6))) + g.T) for _ in range(2)]
    z = x - x.mean(0)
    slow = [s.block_means(s.of_mean(z @ mu + np.einsum("ni,ij,nj->n", z, g, z))) for mu, g in gradients]
    np.testing.assert_allclose(s.of_moments(x, *gradients), slow, rtol=1e-4, atol=1e-4)


def test_paired_difference_is_the_jackknifes():
    """Of two rows of the same seeds: far narrower than the interval of either."""
    x = gaussians(4, 2000, 8)
    y = 1.02 * x + 0.02 * gaussians(5, 2000, 8)

    def blocks(z):
        f = d.frechet(Gaussian.of(z), REFERENCE)
        (found,) = s.of_moments(z, (f.d_mu, f.d_sigma_a))
        return found

    def gap(kept):
        return d.frechet_distance(Gaussian.of(y[kept]), REFERENCE) - d.frechet_distance(Gaussian.of(x[kept]), REFERENCE)

    fast, slow = s.standard_error(blocks(y) - blocks(x)), jackknife_error(deleted(gap, len(x)))
    assert fast == pytest.approx(slow, rel=0.05) and fast < 0.3 * s.standard_error(blocks(x))


def test_distance_of_two_generated_sets():
    """Both are random, image by image of the same seeds."""
    x = gaussians(6, 2000, 8)
    y = 1.1 * x + 0.3 * gaussians(7, 2000, 8)
    f = d.frechet(Gaussian.of(x), Gaussian.of(y))
    fast = s.of_moments(x, (f.d_mu, f.d_sigma_a))[0] + s.of_moments(y, (-f.d_mu, f.d_sigma_b))[0]
    slow = deleted(lambda kept: d.frechet_distance(Gaussian.of(x[kept]), Gaussian.of(y[kept])), len(x))
    assert s.standard_error(fast) == pytest.approx(jackknife_error(slow), rel=0.05)


@pytest.mark.parametrize("n", [1000, 10_000])
def test_inception_score_interval_is_the_jackknifes(n):
    """In one chunk and in two; deleting a block keeps the number of chunks."""
    logits = 2 * np.random.default_rng(8).standard_normal((n, 10))
    fast = s.standard_error(s.block_means(s.of_inception_score(d.divergences(logits))))
    chunk = n / len(d.divergences(logits))
    slow = jackknife_error(deleted(lambda kept: d.inception_score(d.divergences(logits[kept], round(0.98 * chunk))), n))
    assert fast == pytest.approx(slow, rel=0.1)


def test_a_last_chunk_of_one_image_does_not_halve_the_score():
    logits = 3 * np.random.default_rng(8).standard_normal((5001, 10))
    score, whole = (d.inception_score(d.divergences(x)) for x in (logits, logits[:5000]))
    assert score == pytest.approx(whole, rel=1e-3)


@pytest.mark.slow
def test_coverage_on_gaussian_features():
    """95 % intervals of FID, of a paired difference, of the distance of two generated sets and of a mean hold their
    expectation 93 to 97 % of the time."""
    runs, n, hits, found = 1000, 1000, {}, {"FID": [], "difference": [], "FID_uncached": [], "mean": []}
    for k in range(runs):
        x = gaussians(1000 + k, n, 6)
        y = 1.05 * x + 0.1 * gaussians(50_000 + k, n, 6)
        reference = Gaussian(REFERENCE.mu[:6], REFERENCE.sigma[:6, :6])
        both = []
        for z in (x, y):
            f = d.frechet(Gaussian.of(z), reference)
            both.append((f.distance, *s.of_moments(z, (f.d_mu, f.d_sigma_a))))
        found["FID"].append(both[0])
        found["difference"].append((both[1][0] - both[0][0], both[1][1] - both[0][1]))
        f = d.frechet(Gaussian.of(y), Gaussian.of(x))
        between = s.of_moments(y, (f.d_mu, f.d_sigma_a))[0] + s.of_moments(x, (-f.d_mu, f.d_sigma_b))[0]
        found["FID_uncached"].append((f.distance, between))
        found["mean"].append((x[:, 0].mean(), s.block_means(s.of_mean(x[:, 0]))))
    for name, pairs in found.items():
        expected = np.mean([value for value, _ in pairs])
        interval = METRICS[name].interval if name in METRICS else s.Estimate.interval
        intervals = [interval(s.Estimate(value, blocks)) for value, blocks in pairs]
        hits[name] = np.mean([low <= expected <= high for low, high in intervals])
    assert all(0.93 <= share <= 0.97 for share in hits.values()), hits


def test_every_interval_of_a_row():
    """Of the metrics that have one; the control row is at distance 0 of itself, with no width."""
    rng = np.random.default_rng(9)
    x, z = gaussians(10, 300, 8).astype(np.float32), gaussians(11, 300, 8).astype(np.float32)
    reference = Reference(REFERENCE, REFERENCE, gaussians(12, 200, 8))
    base = Evidence(Features(x, x, rng.standard_normal((300, 5))), reference, labels=rng.integers(0, 5, 300))
    base = Evidence(base.features, reference, base, labels=base.labels)
    compared = {k: rng.uniform(0.1, 30, 200) for k in ("psnr", "ssim", "lpips", "psnr_converged")}
    features = Features(z, z, rng.standard_normal((300, 5)))
    other = Evidence(features, reference, base, base, labels=base.labels, **compared)
    for row in (base, other):
        values, blocks = measure(row), block_means(row)
        assert set(blocks) == {k for k in values if METRICS[k].influence}
        assert all(len(b) == s.BLOCKS and abs(np.mean(b)) < 1e-3 * (1 + abs(values[k])) for k, b in blocks.items())
    assert measure(base)["FID_uncached"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(block_means(base)["FID_uncached"], 0, atol=1e-6)
    assert measure(other)["FID_uncached"] == measure(other)["FID_converged"] > 0
    assert set(METRICS) - set(measure(other)) == {"CLIP", "FID_infinity"}


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, -1]))
def test_ties_contain_the_best_and_ignore_the_order_of_rows(seed, sign):
    rng = np.random.default_rng(seed)
    rows = [
        s.Estimate(value, blocks)
        for value, blocks in zip(rng.standard_normal(5), rng.standard_normal((5, 20)), strict=True)
    ]
    tied = s.tied_with_best(rows, sign)
    assert tied[np.argmax([sign * row.value for row in rows])]
    order = rng.permutation(5)
    assert (s.tied_with_best([rows[k] for k in order], sign) == tied[order]).all()


def test_ties_by_hand():
    """One row is equal to the best but for noise, one is clearly worse; a row without a value is never best."""
    noise = np.random.default_rng(0).standard_normal((3, 50))
    values = [1.0, 1.01, 5.0, float("nan")]
    blocks = [noise[0], noise[1], noise[2] * 0.1, np.zeros(50)]
    rows = [s.Estimate(*row) for row in zip(values, blocks, strict=True)]
    assert s.tied_with_best(rows, -1).tolist() == [True, True, False, False]
    assert s.tied_with_best(rows, 1).tolist() == [False, False, True, False]


def test_what_a_block_alone_reaches():
    """Recall's interval: by hand, and over draws of the images no narrower than recall varies, nor a third wider."""
    reached = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], bool)  # alone: the first, third, fourth
    np.testing.assert_allclose(s.of_reach(reached, 6), 0, atol=1e-15)
    np.testing.assert_allclose(s.of_reach(reached[:, :3], 6), [2 / 9, 2 / 9, 2 / 9, 2 / 9, -4 / 9, -4 / 9])
    reference, found, errors = gaussians(40, 400, 5, 0.0), [], []
    for k in range(40):
        _, reached = d.inside(reference, 0.8 * gaussians(2000 + k, 400, 5))
        found.append(reached.any(0).mean())
        errors.append(s.standard_error(s.block_means(s.of_reach(reached, 400))))
    assert 0.8 * np.std(found) < np.mean(errors) < 1.5 * np.std(found)


def test_distances_have_intervals_above_0():
    """Of a row whose training seeds are far apart; the row of one seed is no tie with it, ten times closer."""
    noise = 0.001 * np.random.default_rng(0).standard_normal((2, 50))
    wide = s.Estimate(0.05, noise[0], (np.array([0.03, 0.04, 0.08]),))
    close = s.Estimate(0.005, noise[1])
    assert wide.interval()[0] < 0 < METRICS["FID_uncached"].interval(wide)[0] < 0.05
    assert s.tied_with_best([close.log(), wide.log()], -1).tolist() == [True, False]
    zero = s.Estimate(0.0, np.zeros(50))
    assert METRICS["FID_uncached"].interval(zero) == (0, 0) and not METRICS["FID"].on_log(wide)
    with pytest.raises(ValueError, match="no logarithm of 0"):
        zero.log()


def test_p_values_at_the_ends():
    assert s.Estimate(0.0, np.zeros(50)).p_value() == 1.0 and s.Estimate(0.1, np.zeros(50)).p_value() == 0.0
    assert s.Estimate(1.0, np.random.default_rng(0).standard_normal(50)).p_value() < 1e-6


def test_training_seeds_widen_an_interval():
    """With equal seeds nothing changes; with different ones their spread is added, with its few degrees of freedom."""
    blocks = np.random.default_rng(0).standard_normal(50)
    plain, equal = s.Estimate(1.0, blocks), s.Estimate(1.0, blocks, (np.full(3, 1.0),))
    assert equal.interval() == pytest.approx(plain.interval())
    spread = s.Estimate(1.0, 0 * blocks, (np.array([0.0, 1.0, 2.0]),))
    assert spread.error == pytest.approx(1 / 3**0.5) and spread.freedom == pytest.approx(2)
    gap = spread - s.Estimate(0.0, blocks, (np.array([-1.0, 1.0]),))
    assert gap.error == pytest.approx((1 / 3 + 1 + s.standard_error(blocks) ** 2) ** 0.5)


@pytest.mark.slow
def test_coverage_over_training_seeds():
    """The mean of three seeds, each measured on images of its own spread."""
    rng, hits, runs = np.random.default_rng(1), 0, 4000
    for _ in range(runs):
        seeds, shared = rng.standard_normal(3), 0.5 * rng.standard_normal(1000)
        value = seeds.mean() + shared.mean()
        low, high = s.Estimate(value, s.block_means(s.of_mean(shared)), (seeds + shared.mean(),)).interval()
        hits += low <= 0 <= high
    assert 0.93 <= hits / runs <= 0.97


@given(st.integers(0, 2**32 - 1), st.integers(20, 400))
def test_the_worst_images_by_sorting(seed, n):
    values = np.random.default_rng(seed).standard_normal(n)
    assert s.worst(values) == pytest.approx(np.mean(sorted(values)[: max(1, round(0.05 * n))]))


def test_interval_of_the_worst_images_is_the_jackknifes():
    values = np.random.default_rng(2).standard_normal(4000)
    fast = s.standard_error(s.block_means(s.of_worst(values)))
    slow = jackknife_error(deleted(lambda kept: s.worst(values[kept]), len(values)))
    assert fast == pytest.approx(slow, rel=0.05)


def test_rounds_settle_when_quartiles_are_close():
    assert s.settled([1.0, 1.01, 0.99], [0.5, 0.505, 0.495], 0.03)
    assert not s.settled([1.0, 1.5, 0.7], [0.5, 0.5, 0.5], 0.03)


def test_speed_up_is_the_ratio_of_medians():
    """Not the median of ratios, which a table's own latencies do not give."""
    ratio, q1, q3 = s.speedup([0.6, 0.61, 0.9], [0.45, 0.3, 0.44])
    assert ratio == pytest.approx(0.61 / 0.44) and q1 <= q3
