"""References say which network made them, and have finite numbers."""

import numpy as np
import pytest

from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.features.networks import fingerprint
from harmonica.evaluation.references import Reference, get_reference
from harmonica.utils.errors import UserError

X = np.random.default_rng(0).normal(size=(30, 5))
NETWORK = fingerprint("fashion-mnist-cnn")


def saved(path, network=NETWORK, **more):
    r = Reference(Gaussian.of(X), Gaussian.of(X[:, :3]), X, network)
    r.save(path)
    if more:
        with np.load(path) as f:
            np.savez(path, **{**f, **more})
    return path


def test_a_reference_of_the_same_network(tmp_path):
    path = saved(tmp_path / "r.npz")
    assert get_reference("fashion-mnist-cnn", path).network == NETWORK
    np.testing.assert_array_equal(Reference.load(path).features, X)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("", "by a network that it does not name, not by fashion-mnist-cnn"),
        (fingerprint("noto-emoji-cnn"), "distances between features of two networks mean nothing"),
    ],
)
def test_a_reference_of_another_network_is_refused(tmp_path, network, says):
    with pytest.raises(UserError, match=says):
        get_reference("fashion-mnist-cnn", saved(tmp_path / "r.npz", network))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": np.full((30, 5), np.nan)}, "not finite"),
        ({"sigma": np.full((5, 5), np.inf)}, "not finite"),
        ({"features": X[:, :4]}, "do not fit together"),
        ({"mu": np.array(3.0)}, "not a reference|do not fit"),
    ],
)
def test_damaged_references_are_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        Reference.load(saved(tmp_path / "r.npz", **change))
