"""The recipe from data to folder, at a trial's size, on the training images that are shipped."""

import gzip
import json
import struct

import numpy as np
import pytest
from diffusers import DiTPipeline

from harmonica.models import get_model
from harmonica.models.catalog import CLASS_CONDITIONAL
from harmonica.models.loading import load_backbone
from harmonica.pocket.build import build
from harmonica.pocket.data import fashion_mnist
from harmonica.utils.errors import UserError


def write_idx(path, array):
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with np.load(CLASS_CONDITIONAL / "train_images.npz") as f:
        images, labels = f["images"], f["labels"]
    for name, part in (("train", slice(0, 400)), ("t10k", slice(400, 600))):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images[part])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels[part])
    return folder


def test_data(data, tmp_path):
    images, labels = fashion_mnist(data, "train")
    assert images.shape == (400, 28, 28) and labels.min() == 0 and labels.max() == 9
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz is missing"):
        fashion_mnist(tmp_path, "train")


@pytest.mark.slow
def test_recipe(data, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    build(data, out, work, steps=2, images=10)
    pipe = DiTPipeline.from_pretrained(out)
    assert pipe.transformer.config.num_layers == 8 and pipe.labels["trouser"] == 1
    record = json.loads((out / "quality.json").read_text())
    assert record["training"]["transformer"]["steps"] == 2 and record["quality"]["N"] == 10
    assert "Fashion-MNIST" in (out / "README.md").read_text()
    weights = (out / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    build(data, out, work, steps=2, images=10)  # from the checkpoints, without a step
    assert (out / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    with pytest.raises(UserError, match="of another recipe"):
        build(data, out, work, steps=3, images=40)


@pytest.fixture(scope="module")
def quality():
    return json.loads((CLASS_CONDITIONAL / "quality.json").read_text())["quality"]


def test_shipped_models(quality):
    """What the benchmark stands on: the files are there, small enough, and tell methods apart."""
    files = [p for p in CLASS_CONDITIONAL.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 40e6
    assert 2e6 < sum(p.numel() for p in load_backbone(get_model("pocket-dit")).parameters()) < 5e6
    q = quality
    assert q["N"] >= 1000 and q["test_accuracy"] >= 90
    assert np.mean(q["agreement_50"]) >= q["test_accuracy"] - 2
    for many, few in ((50, 20), (20, 10)):  # seed for seed, as methods are compared
        fall = np.array(q[f"FID_{few}"]) - q[f"FID_{many}"]
        assert fall.mean() > 2 * fall.std(ddof=1)


def test_distance_to_real_images(quality):
    """FID at 50 steps within three times that of real test images, at equal N."""
    assert np.mean(quality["FID_50"]) <= 3 * np.mean(quality["floor_FID"])
