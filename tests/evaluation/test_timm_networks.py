"""Feature networks of timm, with random weights: what they compute, and what is refused."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from harmonica.evaluation.features import networks
from harmonica.utils.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    (tmp_path / "timm").mkdir()
    return tmp_path / "timm"


def saved(name: str, folder) -> torch.nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    save_file(net.state_dict(), folder / f"{name}.safetensors")
    return net


@pytest.mark.parametrize("name, width, places", [("resnet10t", 512, 36), ("vit_tiny_patch16_224", 192, 197)])
def test_features_are_the_networks_own(name, width, places, weights):
    net = saved(name, weights)
    found = networks.get_extractor(f"timm/{name}")(IMAGES)
    assert found.pooled.shape == (3, width) and found.logits.shape == (3, 1000)
    assert found.spatial.shape == (3, 7 * places)
    about = timm.data.resolve_model_data_config(net)
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(x, about["input_size"][1:], mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(about[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, net((x - mean) / std).numpy(), rtol=1e-3, atol=1e-4)
    one = networks.get_extractor(f"timm/{name}")(IMAGES[1:2])
    np.testing.assert_allclose(one.pooled, found.pooled[1:2], rtol=1e-3, atol=1e-4)


def test_weights_are_part_of_its_identity(weights):
    before = networks.fingerprint("timm/resnet10t")
    net = saved("resnet10t", weights)
    first = networks.fingerprint("timm/resnet10t")
    net.conv1[0].weight.data += 1
    save_file(net.state_dict(), weights / "resnet10t.safetensors")
    assert len({before, first, networks.fingerprint("timm/resnet10t")}) == 3
    assert networks.downloads("timm/resnet10t") == () and networks.downloads("inception-2015-12-05")


def test_what_is_refused(weights, monkeypatch):
    with pytest.raises(UserError, match="unknown network of timm 'resnet5O'; did you mean"):
        networks.get_extractor("timm/resnet5O")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="timm cannot fetch the weights of resnet10t .*: put them into .*safetensors"):
        networks.get_extractor("timm/resnet10t")
    saved("resnet10t", weights).state_dict()
    (weights / "resnet10t.safetensors").rename(weights / "resnet18.safetensors")
    with pytest.raises(UserError, match="is not of timm's resnet18"):
        networks.get_extractor("timm/resnet18")
    saved("resnet10t", weights)
    with pytest.raises(UserError, match="takes images of 3 channels, got 8×8 with 1"):
        networks.get_extractor("timm/resnet10t")(np.zeros((2, 8, 8), np.uint8))


@pytest.mark.parametrize("name", ["timm/$(touch x)", "timm/../secret", "timm/", "timm/a b", "timm/a/b"])
def test_a_name_that_could_be_anything_else(name):
    with pytest.raises(UserError, match="unknown extractor"):
        networks.check_name(name)
