"""The ADM metrics' wiring, with random weights on both sides: no weights can be had here."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from harmonica.cli import main
from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.features.inception import inception_features, save_random_weights
from harmonica.evaluation.metrics import Evidence, measure
from harmonica.evaluation.references import Reference, adm_reference
from harmonica.utils.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    save_random_weights(path)
    return path


@pytest.fixture(scope="module")
def images():
    return RNG.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


def test_features_are_torch_fidelitys(weights, images):
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(weights))
    with torch.inference_mode():
        pooled, logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    own = inception_features(weights)(images)
    assert own.pooled.shape == (5, 2048) and own.logits.shape == (5, 1008) and own.spatial.shape == (5, 17 * 17 * 7)
    np.testing.assert_allclose(own.pooled, pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own.logits, logits, rtol=1e-5, atol=1e-5)


def test_spatial_features_by_hand(weights, images):
    """Up to mixed_6/conv module by module: TF1's resize (no antialias, corners not aligned), NHWC, seven channels."""
    net = FeatureExtractorInceptionV3("x", ["2048"], str(weights))
    at = np.arange(299) * (64 / 299)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, 63), (at - low)[:, None]
    x = images.astype(np.float64)
    rows = x[:, low] * (1 - share[None, :, None]) + x[:, high] * share[None, :, None]
    resized = rows[:, :, low] * (1 - share[None, None]) + rows[:, :, high] * share[None, None]
    h = torch.from_numpy((resized - 128) / 128).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
                     "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"):  # fmt: skip
            h = getattr(net, name)(h)
        branch = net.Mixed_6d.branch1x1
        h = F.relu(branch.bn(branch.conv(h)))
    expected = h[:, :7].numpy().transpose(0, 2, 3, 1).reshape(5, -1)
    np.testing.assert_allclose(inception_features(weights)(images).spatial, expected, rtol=1e-3, atol=1e-5)


def test_adm_reference_files(tmp_path, weights, images):
    """Stored statistics are taken as they are; the images that come with them give the features."""
    d, d_s = 2048, 2023
    stats = {"mu": np.zeros(d), "sigma": np.eye(d, dtype=np.float32), "mu_s": np.ones(d_s), "sigma_s": np.eye(d_s)}
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=images, **stats)
    extract = inception_features(weights)
    own = adm_reference(tmp_path / "VIRTUAL.npz", extract, "a network", "imagenet", chunk=2)
    own.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    assert again.about == own.about and (again.about.side, again.about.images) == images.shape[1::-1]
    np.testing.assert_array_equal(again.spatial.mu, stats["mu_s"])
    np.testing.assert_array_equal(again.pooled.sigma, np.eye(d))
    np.testing.assert_allclose(again.features, extract(images).pooled, rtol=1e-6)
    np.savez(tmp_path / "other.npz", arr_0=images)
    with pytest.raises(UserError, match="is not a reference file of ADM"):
        adm_reference(tmp_path / "other.npz", extract, "a network", "imagenet")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "r.npz").read_bytes()[:5000])
    with pytest.raises(UserError, match="is not a reference of the metrics"):
        Reference.load(tmp_path / "cut.npz")


def test_the_network_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    assert main(["reference", "x.npz", "-o", str(tmp_path / "r.npz")]) == 2
    err = capsys.readouterr().err
    assert "the Inception network" in err and str(tmp_path) in err and err.count("\n") == 1


def test_mode_collapse_is_told_from_low_quality():
    """A generator that repeats one good image, and one that draws everything badly: precision and recall fall apart the
    right way round."""
    from harmonica.evaluation.features.base import Features

    real = RNG.normal(size=(400, 16))
    reference = Reference(Gaussian.of(real), Gaussian.of(real), real)
    collapsed = real[:1] + 1e-3 * RNG.normal(size=(400, 16))
    noisy = 6 * RNG.normal(size=(400, 16))
    logits = np.zeros((400, 4))
    a, b = (measure(Evidence(Features(x, x, logits), reference)) for x in (collapsed, noisy))
    assert a["precision"] > 90 and a["recall"] < 5
    assert b["precision"] < 5 and b["recall"] > 50
    assert a["FID"] == pytest.approx(a["cleanfid_FID"], rel=1e-6)
