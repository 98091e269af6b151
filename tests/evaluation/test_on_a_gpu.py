"""The networks and distances of the metrics at their true size, on a GPU that is not there: no tensor on the wrong
device, no clash of dtypes."""

import numpy as np
import open_clip
import pytest
import torch
from fake_gpu import fake
from torch.nn.modules.module import register_module_forward_pre_hook
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from harmonica.evaluation import distances
from harmonica.evaluation.features.classifier import Classifier
from harmonica.evaluation.features.clip import Clip
from harmonica.evaluation.features.inception import BATCH, inception_features, save_random_weights, with_spatial
from harmonica.evaluation.features.networks import get_extractor
from harmonica.evaluation.statistics import bounds
from harmonica.utils.precision import products

ELSEWHERE = torch.device("cpu")  # the default device of code that runs: what it makes itself must name the GPU


def points(n):
    return distances._Points.of(torch.zeros(n, 2048, dtype=torch.float64))


def test_inception(tmp_path, monkeypatch):
    weights = tmp_path / "inception.pth"
    weights.touch()
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: {})
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    with fake(), torch.inference_mode():
        with monkeypatch.context() as building:  # the counters of batch norms would need a driver
            building.setattr(torch, "tensor", lambda value, **about: torch.zeros((), **about))
            building.setattr(FeatureExtractorInceptionV3, "to", lambda self, dtype: self)  # it is float32
            net = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
        images = torch.zeros(BATCH, 256, 256, 3, dtype=torch.uint8)
        with ELSEWHERE:
            found = with_spatial(net)(images)
    assert [tuple(x.shape) for x in found] == [(50, 2048), (50, 2023), (50, 1008)]
    assert all(x.is_cuda and x.dtype == torch.float32 for x in found)


def test_clip():
    with fake(), torch.inference_mode():
        net = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu")).eval()
        pictures, tokens = torch.zeros(100, 3, 224, 224), torch.zeros(100, 77, dtype=torch.long)
        with ELSEWHERE:
            found = net.encode_image(pictures, normalize=True), net.encode_text(tokens, normalize=True)
    assert all(x.is_cuda and x.dtype == torch.float32 and x.shape == (100, 512) for x in found)


def test_classifier(monkeypatch):
    with fake(), torch.inference_mode():
        with monkeypatch.context() as building:
            building.setattr(torch, "tensor", lambda value, **about: torch.zeros((), **about))
            net = Classifier(classes=10, channels=1).eval()
        images = torch.zeros(250, 1, 32, 32)
        with ELSEWHERE:
            found = net(images)
    assert [tuple(x.shape) for x in found] == [(250, 128), (250, 448), (250, 10)]
    assert all(x.is_cuda for x in found)


def of_inception(tmp_path):
    save_random_weights(tmp_path / "weights.pth")
    inception_features(tmp_path / "weights.pth")(np.zeros((2, 32, 32, 3), np.uint8))


def of_clip(tmp_path):
    Clip("noto-emoji").cosines(np.zeros((2, 32, 32, 3), np.uint8), ["a cat", "a dog"])


def of_the_classifier(tmp_path):
    get_extractor("fashion-mnist-cnn")(np.zeros((2, 32, 32), np.uint8))


@pytest.mark.parametrize("features", [of_inception, of_clip, of_the_classifier])
def test_features_are_true_float32_also_where_branches_are_not(features, tmp_path):
    seen = set()
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    hook = register_module_forward_pre_hook(lambda *_: seen.add(tuple(b.fp32_precision for b in backends)))
    try:
        with products("tf32"):
            features(tmp_path)
    finally:
        hook.remove()
    assert seen == {("ieee", "ieee")}


def test_frechet_distance_of_50_000_images():
    with fake() as peak:
        features = [torch.zeros(50_000, 2048, dtype=torch.float64) for _ in range(2)]
        with ELSEWHERE:
            found = distances._frechet(*(x for f in features for x in distances._moments(f)))
    assert all(x.is_cuda and x.dtype == torch.float64 for x in found) and peak.most < 4e9


def test_precision_and_recall_of_50_000_images():
    """All distances of the generated images at once would be 20 GB."""
    with fake() as peak:
        real, generated = points(10_000), points(50_000)
        with ELSEWHERE:
            reach = [distances._radii(p, 3) for p in (real, generated)]
            found = distances._inside(real, reach[0], generated, reach[1], bounds(50_000))
    assert all(x.is_cuda and x.dtype == torch.bool for x in found) and peak.most < 2e9


def test_a_tensor_elsewhere_is_found():
    """The check itself: radii left on the CPU meet distances on the GPU."""
    with fake():
        real, generated = points(100), points(200)
        reach = distances._radii(real, 3), distances._radii(generated, 3).cpu()
        with pytest.raises(RuntimeError, match="device"):
            distances._inside(real, reach[0], generated, reach[1], bounds(200))
