from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as clean_frechet
from fake_gpu import fake
from hypothesis import given
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from harmonica.evaluation import distances
from harmonica.evaluation.distances import (
    Gaussian,
    divergences,
    fid_infinity,
    frechet_distance,
    inception_score,
    precision_recall,
    psnr,
    radii,
    ssim,
)
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.metrics import METRICS, Evidence, Metric, measure
from harmonica.evaluation.references import Reference
from harmonica.evaluation.statistics import bounds
from harmonica.utils.errors import UserError

RNG = np.random.default_rng(0)


def two_sets(n=400, d=24, shift=0.3):
    mix = RNG.normal(size=(d, d))
    return RNG.normal(size=(n, d)) @ mix, RNG.normal(size=(n, d)) @ mix * 1.2 + shift


@pytest.mark.parametrize("n", [400, 15])  # full rank, rank-deficient
def test_frechet_agrees_with_torch_fidelity_and_clean_fid(n):
    a, b = two_sets(n)
    own = frechet_distance(Gaussian.of(a), Gaussian.of(b))
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(torch.from_numpy(a)), fid_features_to_statistics(torch.from_numpy(b)), False
    )["frechet_inception_distance"]
    assert own == pytest.approx(theirs, rel=1e-9 if n > 24 else 1e-4)
    ga, gb = Gaussian.of(a), Gaussian.of(b)
    assert own == pytest.approx(clean_frechet(ga.mu, ga.sigma, gb.mu, gb.sigma), rel=1e-9 if n > 24 else 1e-3)


def plain_frechet(a, b):
    """In numpy, by the square root of the first covariance itself."""
    w, v = np.linalg.eigh(a.sigma)
    root = (v * np.sqrt(w.clip(0))) @ v.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.sigma @ root).clip(0)).sum()
    return ((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 7, 24, 130])
def test_moments_and_frechet_distance_in_plain_numpy(d, dtype):
    sets = [x.astype(dtype) for x in two_sets(d=d)]
    own = [Gaussian.of(x) for x in sets]
    plain = [Gaussian(x.mean(0, np.float64), np.cov(x.astype(np.float64), rowvar=False).reshape(d, d)) for x in sets]
    for a, b in zip(own, plain, strict=True):
        np.testing.assert_allclose(a.mu, b.mu, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(a.sigma, b.sigma, rtol=1e-9, atol=1e-12)
        assert a.mu.dtype == a.sigma.dtype == np.float64
    assert frechet_distance(*own) == pytest.approx(plain_frechet(*plain), rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_frechet_properties(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(50, 5)), rng.normal(size=(60, 5)) * rng.uniform(0.5, 2, 5) + rng.normal(size=5)
    ga, gb = Gaussian.of(a), Gaussian.of(b)
    assert frechet_distance(ga, ga) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(ga, gb) == pytest.approx(frechet_distance(gb, ga), rel=1e-8)
    moved = Gaussian(ga.mu + 3, ga.sigma)
    assert frechet_distance(ga, moved) == pytest.approx(9 * 5, rel=1e-8)


def test_fid_infinity_is_that_of_the_distribution():
    """Of 30 sets from a known Gaussian, in the mean and to within its error, where FID is six errors off; for two
    models whose biases differ, too."""
    reference = Gaussian(np.zeros(16), np.eye(16))
    for scale in (0.9, 1.5):
        truth = 16 * (0.2**2 + (scale - 1) ** 2)
        sets = [RNG.normal(0.2, scale, (600, 16)) for _ in range(30)]
        found = np.array([(fid_infinity(x, reference), frechet_distance(Gaussian.of(x), reference)) for x in sets])
        error = found.std(0, ddof=1) / len(sets) ** 0.5
        off = (found.mean(0) - truth) / error
        assert abs(off[0]) < 3.5 and off[1] > 4
    with pytest.raises(UserError, match="at least 64 images, not 63"):
        fid_infinity(sets[0][:63], reference)


def test_inception_score_agrees_with_torch_fidelity():
    logits = RNG.normal(size=(1000, 10)) * 3
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=4, shuffle=False)["inception_score_mean"]
    assert inception_score(divergences(logits, chunk=250)) == pytest.approx(theirs, rel=1e-9)


def test_inception_score_at_the_ends():
    sure = 50 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(divergences(sure)) == pytest.approx(10, rel=1e-6)
    assert inception_score(divergences(np.zeros((100, 10)))) == pytest.approx(1)


def brute_radii(points, k):
    return np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, k]


def brute_precision_recall(reference, samples, k):
    def inside(centres, points):
        return (np.linalg.norm(points[:, None] - centres[None], axis=2) <= brute_radii(centres, k)).any(1).mean()

    return inside(reference, samples), inside(samples, reference)


def test_precision_and_recall_are_not_swapped():
    """Samples that crowd in one corner of the reference: precise, but they cover little."""
    reference = RNG.normal(size=(300, 4))
    samples = 0.1 * RNG.normal(size=(250, 4))
    precision, recall = precision_recall(reference, samples)
    assert precision > 0.9 and recall < 0.2
    assert (precision, recall) == pytest.approx(brute_precision_recall(reference, samples, 3))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_precision_and_recall_by_brute_force(seed, k):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 0.5
    assert precision_recall(a, b, k) == pytest.approx(brute_precision_recall(a, b, k))


@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.integers(1, 5))
def test_radii_by_brute_force(seed, n, k):
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    np.testing.assert_allclose(radii(x, k), brute_radii(x.astype(np.float64), k) ** 2, rtol=1e-9, atol=1e-13)


def test_shared_radii_change_nothing():
    reference, samples = RNG.normal(size=(300, 4)), 0.8 * RNG.normal(size=(250, 4))
    own = precision_recall(reference, samples)
    assert precision_recall(reference, samples, reference_radii=radii(reference)) == own
    assert precision_recall(reference, samples, reference_radii=np.full(300, 1e9))[0] == 1 > own[0]


def test_distances_are_made_in_blocks(monkeypatch):
    """The result does not depend on the block, and no more than a few blocks are ever held."""
    reference, samples = RNG.normal(size=(1500, 8)), RNG.normal(size=(2500, 8))
    at_once = precision_recall(reference, samples)
    monkeypatch.setattr(distances, "BLOCK", 2**16)
    assert precision_recall(reference, samples) == at_once
    with fake("cpu") as peak:
        r, s = (distances._Points.of(torch.zeros(x.shape, dtype=torch.float64)) for x in (reference, samples))
        distances._inside(r, distances._radii(r, 3), s, distances._radii(s, 3), bounds(len(samples)))
    assert peak.most < 4 * 8 * 2**16 + 2 * (reference.nbytes + samples.nbytes)  # all distances at once are 30 MB


def test_precision_and_recall_agree_with_torch_fidelity():
    reference, samples = RNG.normal(size=(300, 8)), 0.8 * RNG.normal(size=(200, 8))
    theirs = calculate_precision_recall_full(torch.from_numpy(samples), torch.from_numpy(reference))
    assert precision_recall(reference, samples) == pytest.approx(theirs, abs=1e-6)


def test_psnr():
    a = RNG.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    b = a.copy()
    b[0, 0, 0] ^= 255
    error = (float(a[0, 0, 0, 0]) - float(b[0, 0, 0, 0])) ** 2 / a[0].size
    most = 10 * np.log10(255**2 * 64)  # one value of 64 differs by one
    np.testing.assert_allclose(psnr(a, b), [10 * np.log10(255**2 / error), most, most])
    with pytest.raises(UserError, match="one shape"):
        psnr(a, a[:2])


def test_ssim_by_hand():
    """By a filter of scipy's, in the window's interior, as Wang et al. define it."""
    from scipy.ndimage import gaussian_filter

    a = RNG.integers(0, 256, (2, 24, 24, 1), dtype=np.uint8)
    b = np.clip(a.astype(int) + RNG.integers(-30, 30, a.shape), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(ssim(a, a), 1)
    for own, x, y in zip(ssim(a, b), a[..., 0].astype(float), b[..., 0].astype(float), strict=True):
        mx, my, mxx, myy, mxy = (gaussian_filter(z, 1.5, truncate=3.5) for z in (x, y, x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        map_ = (2 * mx * my + c1) * (2 * (mxy - mx * my) + c2)
        map_ /= (mx**2 + my**2 + c1) * (mxx - mx**2 + myy - my**2 + c2)
        assert own == pytest.approx(map_[5:-5, 5:-5].mean(), rel=1e-6)


def test_lpips_runs_alexnet_as_torchvision_does(tmp_path):
    """Its layers are torchvision's after every ReLU, with the weights of the file; equal images are at distance 0."""
    import lpips
    from torchvision.models import alexnet

    from harmonica.evaluation.features.lpips import get_lpips

    torch.manual_seed(0)
    network = alexnet(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    distance = get_lpips(tmp_path / "alexnet.pth")
    a = RNG.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + RNG.integers(-9, 9, a.shape), 0, 255).astype(np.uint8)
    assert distance(a, a).tolist() == [0, 0, 0] and (distance(a, b) > 0).all()
    assert distance(a[..., :1], a[..., :1]).shape == (3,)
    heads = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)

    def layers(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        x, found = (x - heads.scaling_layer.shift) / heads.scaling_layer.scale, []
        for layer in network.features:
            x = layer(x)
            found += [x / x.norm(dim=1, keepdim=True)] * isinstance(layer, torch.nn.ReLU)
            x = x.clone()
        return found

    with torch.no_grad():
        parts = [
            head.model((x - y).square()).mean((1, 2, 3))
            for head, x, y in zip(heads.lins, layers(a), layers(b), strict=True)
        ]
    np.testing.assert_allclose(distance(a, b), sum(parts).numpy(), rtol=1e-4)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not have AlexNet's weights"):
        get_lpips(tmp_path / "other.pth")


def test_too_few_samples():
    with pytest.raises(UserError, match="at least 2"):
        Gaussian.of(np.zeros((1, 3)))
    with pytest.raises(UserError, match="more than 3"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))


def test_a_new_metric_is_one_entry(monkeypatch):
    """It is measured beside the others, unless the evidence lacks what it needs."""
    x = RNG.normal(size=(20, 4))
    evidence = Evidence(Features(x, x, np.zeros((20, 3))), Reference(Gaussian.of(x), Gaussian.of(x), x))
    before = measure(evidence)
    assert set(before) == {"IS", "FID", "cleanfid_FID", "sFID", "precision", "recall"}
    width = Metric("width", "Width ↑", "higher", "{:.1f}", lambda e: float(e.features.pooled.shape[1]))
    asked = Metric("asked", "Asked ↓", "lower", "{:.1f}", lambda e: float(len(e.labels)), "labels")
    for metric in (width, asked):
        monkeypatch.setitem(METRICS, metric.name, metric)
    assert measure(evidence) == before | {"width": 4.0}
    labelled = Evidence(evidence.features, evidence.reference, labels=np.zeros(20, int))
    assert measure(labelled) == before | {"agreement": 100.0, "width": 4.0, "asked": 20.0}
    extrapolated = Evidence(evidence.features, evidence.reference, extrapolated=True)
    assert set(measure(extrapolated)) == {*before, "width", "FID_infinity"}
    assert (width.sign, asked.sign) == (1, -1)


@pytest.mark.parametrize(
    ("model", "says"), [("ViT-B-32", "trained with another GELU"), ("ViT-B-33", "cannot load ViT-B-33/openai")]
)
def test_clip_models_with_wrong_weights_are_refused(model, says):
    """openai's weights were trained with QuickGELU; open_clip warns and computes another score."""
    from harmonica.evaluation.features.clip import Clip

    with pytest.raises(UserError, match=says):
        Clip(model, "openai")


def test_the_configured_clip_model_has_the_activation_of_its_weights():
    import open_clip
    import yaml

    config = yaml.safe_load((Path(__file__).parents[2] / "workflow" / "config" / "paper.yaml").read_text())
    about = config["tables"]["table2"]["clip"]
    weights = open_clip.get_pretrained_cfg(about["model"], about["pretrained"])
    assert weights["quick_gelu"] and open_clip.get_model_config(about["model"])["quick_gelu"]
