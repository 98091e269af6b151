"""References say what they are of, and are compared with images of that only."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harmonica.cli import main
from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.evaluate import Targets, gather
from harmonica.evaluation.features.networks import SHIPPED, fingerprint
from harmonica.evaluation.records import Manifest
from harmonica.evaluation.references import Identity, Reference, get_reference, shipped_reference
from harmonica.models import get_model
from harmonica.utils.arrays import write_npz
from harmonica.utils.errors import UserError

X = np.random.default_rng(0).normal(size=(30, 5))
DIT = get_model("pocket-dit")
ABOUT = Identity(fingerprint("fashion-mnist-cnn"), "fashion-mnist", "a test", 32, 30)


def saved(path, about=ABOUT, **more):
    r = Reference(Gaussian.of(X), Gaussian.of(X[:, :3]), X, about)
    r.save(path)
    if more:
        with np.load(path) as f:
            write_npz(path, {k: f[k] for k in f.files if k != "sha256"} | more)
    return path


def test_a_reference_of_the_same_network_data_and_side(tmp_path):
    path = saved(tmp_path / "r.npz")
    assert get_reference("fashion-mnist-cnn", path, DIT).about == ABOUT
    np.testing.assert_array_equal(Reference.load(path).features, X)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": ""}, "by a network that it does not name, not by fashion-mnist-cnn"),
        ({"network": fingerprint("noto-emoji-cnn")}, "distances between features of two networks mean nothing"),
        ({"data": "noto-emoji"}, "is of noto-emoji, and the images of pocket-dit are compared with fashion-mnist"),
        ({"side": 28}, "is of pictures of 28 pixels, and the images of pocket-dit have 32"),
    ],
)
def test_another_reference_is_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says) as raised:
        get_reference("fashion-mnist-cnn", saved(tmp_path / "r.npz", replace(ABOUT, **change)), DIT)
    assert "harmonica reference" in str(raised.value)


def test_the_shipped_references_are_of_one_data_set_each():
    for name, model in (("fashion-mnist-cnn", "pocket-uvit"), ("noto-emoji-cnn", "pocket-pixart")):
        about = get_reference(name, None, get_model(model)).about
        assert about == get_reference(name, SHIPPED[name] / "reference.npz", get_model(model)).about
        assert about.side == 32 and about.data == get_model(model).data_set
    with pytest.raises(
        UserError, match="is of noto-emoji, and the images of pocket-dit are compared with fashion-mnist"
    ):
        get_reference("noto-emoji-cnn", None, DIT)


def test_images_of_another_data_set_are_not_measured(tmp_path, capsys):
    """Fashion against emoji gave an FID of 40."""
    Manifest("x", "float32", 0, {"a": "pocket-dit"}, {"a": ["000000-000007.npz"]}).save(tmp_path / "m.json")
    args = ["metrics", str(tmp_path / "m.json"), "--uncached", "a", "--extractor", "noto-emoji-cnn"]
    assert main([*args, "-o", str(tmp_path / "x.json")]) == 2
    assert "their distance would mean nothing" in capsys.readouterr().err and not (tmp_path / "x.json").exists()


def test_the_command_writes_what_a_reference_is_of(tmp_path):
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 50), np.uint8)).save(tmp_path / f"{k}.png")
    args = ["reference", str(tmp_path), "--extractor", "noto-emoji-cnn", "--side", "32"]
    assert main([*args, "--data", "noto-emoji", "-o", str(tmp_path / "r.npz")]) == 0
    about = get_reference("noto-emoji-cnn", tmp_path / "r.npz", get_model("pocket-pixart")).about
    assert (about.images, about.side, about.data) == (3, 32, "noto-emoji") and "centre crop" in about.source
    assert main([*args, "-o", str(tmp_path / "s.npz")]) == 0
    with pytest.raises(UserError, match=f"is of {tmp_path.name}, and the images of pocket-pixart"):
        get_reference("noto-emoji-cnn", tmp_path / "s.npz", get_model("pocket-pixart"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": np.full((30, 5), np.nan)}, "not finite"),
        ({"sigma": np.full((5, 5), np.inf)}, "not finite"),
        ({"features": X[:, :4]}, "do not fit together"),
        ({"mu": np.array(3.0)}, "is not a reference of the metrics"),
        ({"more": X}, "is not a reference of the metrics"),
    ],
)
def test_damaged_references_are_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        Reference.load(saved(tmp_path / "r.npz", **change))


def test_a_reference_of_an_older_version_is_refused(tmp_path):
    r = shipped_reference("fashion-mnist-cnn")
    np.savez(tmp_path / "r.npz", mu=r.pooled.mu, sigma=r.pooled.sigma, mu_s=r.spatial.mu, sigma_s=r.spatial.sigma,
             features=r.features, network="fashion-mnist-cnn")  # fmt: skip
    with pytest.raises(
        UserError, match="has no checksum: an older version wrote it.*; make it with `harmonica reference`"
    ):
        Reference.load(tmp_path / "r.npz")


def test_images_of_other_seeds_are_not_compared(tmp_path, capsys):
    """Captions are in the same order under every seed, so labels do not tell."""
    for seed, name in enumerate(("full", "fora")):
        chunk = {name: ["000000-000007.npz"]}
        Manifest("x", "float32", seed, {name: "pocket-dit"}, chunk).save(tmp_path / f"{name}.json")
    manifests = [str(tmp_path / f"{name}.json") for name in ("full", "fora")]
    assert main(["metrics", *manifests, "--uncached", "full", "-o", str(tmp_path / "x.json")]) == 2
    assert "images of the seeds 0 and 1 are not measured together" in capsys.readouterr().err


def test_manifests_in_another_order_are_of_the_same_images():
    targets = Targets(["a/000000-000007.npz", "a/000008-000015.npz"])
    with pytest.raises(UserError, match="000000-000007.npz is not a complete chunk"):  # and not: other images
        gather("fora", ["b/000008-000015.npz", "b/000000-000007.npz"], targets, None, None, {})


def test_other_images_are_not_compared():
    targets = Targets(["a/000000-000007.npz"])
    with pytest.raises(UserError, match="fora and the uncached images are not the same ones: 000008-000015.npz"):
        gather("fora", ["b/000008-000015.npz"], targets, None, None, {})
