"""ImageNet's moments, stored once and drawn from in trainings, and the latents of shipped images."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from harmonica.cli import main
from harmonica.methods import Task
from harmonica.models import catalog, get_model, loading, training_images
from harmonica.models.training_images import (
    Moments,
    moments_folder,
    pictures,
    shipped_latents,
    store_moments,
    training_latents,
)
from harmonica.plan import Origin, Protocol
from harmonica.utils import UserError

SIZES = {"n01": 4, "n02": 3, "n03": 4}  # pictures of each class


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A small hub model with eleven pictures, of which five fill a shard, and the shipped autoencoder of colour
    images."""
    about = get_model("dit-xl-2-256")
    config = tuple((about.config | {"num_embeds_ada_norm": len(SIZES)}).items())
    model = replace(about, name="tiny", resolution=32, hub_config=config)
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HARMONICA_DEVICE", "cpu")
    monkeypatch.setattr(training_images, "SHARD", 5)
    monkeypatch.setattr(training_images, "BATCH_PIXELS", 2 * 32**2)
    monkeypatch.setitem(catalog.MODELS, model.name, model)
    vae = loading.load_autoencoder(get_model("pocket-pixart"))
    monkeypatch.setattr(loading, "load_autoencoder", lambda model: vae)
    rng, folder = np.random.default_rng(0), model.training_images
    for name, count in SIZES.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            colours = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            colours.resize((50, 40)).save(folder / name / f"{k}.{'png' if k % 2 else 'JPEG'}")
    return model


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_another_number_of_classes_is_refused(model, change):
    """A folder too many, such as a copy, shifts the labels of all that follow."""
    if change == "more":
        shutil.copytree(model.training_images / "n02", model.training_images / "n02 copy")
    else:
        shutil.rmtree(model.training_images / "n02")
    with pytest.raises(UserError, match="folders with pictures, and the model has 3 classes"):
        store_moments(model)
    assert (get_model("dit-xl-2-512").classes, get_model("uvit-h-2-256").classes) == (1000, 1000)
    assert (get_model("pocket-dit").classes, get_model("pocket-uvit").classes) == (10, 10)


def shards(folder):
    return {p.name: p.read_bytes() for p in folder.glob("0*.npy")}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hidden_and_empty_folders_are_no_classes(model):
    imagenet = model.training_images
    expected, labels = pictures(imagenet)
    (imagenet / ".cache").mkdir()
    (imagenet / "n02" / "._0.JPEG").write_bytes(b"")
    (imagenet / "n02" / "notes.txt").write_text("")
    (imagenet / "n00").mkdir()
    (imagenet / ".cache" / "0.png").write_bytes((imagenet / "n01" / "1.png").read_bytes())
    found, again = pictures(imagenet)
    assert found == expected and labels.tolist() == again.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    assert [p.parent.name for p in found] == [name for name, n in SIZES.items() for _ in range(n)]
    with pytest.raises(UserError, match="link the folder of its class folders to .*none"):
        pictures(imagenet / "none")


def test_moments_are_those_of_the_pictures(model):
    """Of one picture after the other, by the autoencoder's own calls; some are flipped."""
    store_moments(model)
    latents, labels = training_latents(model)
    vae, drawn = loading.load_autoencoder(model), latents.draw(torch.arange(11), generator(3))
    assert len(latents) == 11 and labels.tolist() == pictures(model.training_images)[1].tolist()
    assert drawn.shape == (11, 4, 8, 8) and drawn.dtype == torch.float32
    noise, flipped = torch.randn(11, 4, 8, 8, generator=generator(3)), []
    for i, path in enumerate(pictures(model.training_images)[0]):
        x = np.asarray(Image.open(path).convert("RGB").resize((40, 32), Image.Resampling.BICUBIC))[:, 4:36]
        x = torch.from_numpy(x / 127.5 - 1).float().permute(2, 0, 1)[None]
        ways = [vae.encode(image).latent_dist for image in (x, x.flip(3))]
        expected = torch.cat([(d.mean + d.std * noise[i]) * vae.config.scaling_factor for d in ways])
        errors = (expected - drawn[i]).abs().amax((1, 2, 3)).tolist()
        assert min(errors) < 5e-3 < 0.1 < max(errors)
        flipped.append(errors[1] < errors[0])
    assert 0 < sum(flipped) < 11


def test_draws_follow_the_trainings_generator(model):
    store_moments(model)
    latents, index = training_latents(model)[0], torch.tensor([7, 0, 7, 10])
    g = generator(0)
    first, second = latents.draw(index, g), latents.draw(index, g)
    assert torch.equal(first, training_latents(model)[0].draw(index, generator(0)))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[2])
    assert not torch.equal(first, latents.draw(index, generator(1)))


def test_processes_read_the_same(model):
    folder = store_moments(model)
    alone = shards(folder)
    for path in folder.iterdir():
        path.unlink()
    assert len(alone) == 3 and shards(store_moments(model, workers=2)) == alone


def test_parts_encode_the_same(model):
    folder = store_moments(model)
    alone = shards(folder)
    for path in folder.iterdir():
        path.unlink()
    store_moments(model, part=(1, 2))
    assert list(shards(folder)) == ["00001.npy"]
    store_moments(model, part=(0, 2))
    assert shards(folder) == alone


def test_only_missing_shards_are_encoded(model, monkeypatch):
    folder = store_moments(model)
    complete, encoded = shards(folder), []
    own = training_images.posterior
    monkeypatch.setattr(training_images, "posterior", lambda vae, x: encoded.append(len(x)) or own(vae, x))
    store_moments(model)
    assert encoded == []
    (folder / "00001.npy").unlink()
    store_moments(model)
    assert encoded == [2, 2, 1] and shards(folder) == complete


def test_shards_of_other_pictures(model):
    folder = store_moments(model)
    (model.training_images / "n02" / "0.JPEG").unlink()
    with pytest.raises(UserError, match="has the moments of other images than those in .*: delete it and run again"):
        store_moments(model)
    for path in folder.iterdir():
        path.unlink()
    store_moments(model)
    assert len(training_latents(model)[0]) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named(model, workers):
    path = model.training_images / "n03" / "2.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="n03/2.JPEG is a damaged picture") as raised:
        store_moments(model, workers)
    assert "\n" not in str(raised.value)
    assert sorted(shards(moments_folder(model))) == ["00000.npy"]  # the one before it is kept


def test_damaged_and_missing_moments(model):
    with pytest.raises(UserError, match="does not contain the moments .* run `harmonica moments tiny`"):
        training_latents(model)
    folder = store_moments(model)
    shard = folder / "00001.npy"
    shard.write_bytes(shard.read_bytes()[:200])
    latents, _ = training_latents(model)
    latents.draw(torch.tensor([4, 10]), generator(0))
    with pytest.raises(UserError, match="00001.npy is damaged .* run `harmonica moments tiny`"):
        latents.draw(torch.tensor([4, 5]), generator(0))
    shard.unlink()
    with pytest.raises(UserError, match="00001.npy is missing: `harmonica moments tiny` makes"):
        Moments(folder, "harmonica moments tiny")


def test_a_training_on_imagenet_needs_no_autoencoder(model, monkeypatch):
    store_moments(model)
    monkeypatch.setattr(loading, "load_autoencoder", None)
    monkeypatch.setattr(loading, "load_backbone", lambda model, precision: torch.nn.Identity())
    task = Task(Protocol(model.name, "ddim", 10, 1.5), Origin("learning_to_cache"))
    latents, labels = task.training_latents()
    assert len(latents) == len(labels) == 11


def test_the_command(model, tmp_path, capsys):
    assert main(["moments", "tiny", "--workers", "0", "--done", str(tmp_path / "done.json")]) == 0
    folder = moments_folder(model)
    assert capsys.readouterr().out.strip() == str(folder)
    assert json.loads((tmp_path / "done.json").read_text())["images"] == 11
    for name, message in (
        ("pocket-dit", "pocket DiT is shipped with its training images"),
        ("pixart-alpha-256", "there are no training images for PixArt-α"),
    ):
        assert main(["moments", name]) == 2
        assert message in capsys.readouterr().err


def test_models_of_one_autoencoder_share_their_moments():
    dit, uvit, larger = (moments_folder(get_model(n)) for n in ("dit-xl-2-256", "uvit-h-2-256", "dit-xl-2-512"))
    assert dit == uvit != larger


def test_shipped_images_are_one_sample_each():
    """Of a generator of seed 0, in order; a draw leaves the training's generator as it is."""
    model = get_model("pocket-pixart")
    vae, g = loading.load_autoencoder(model), generator(5)
    latents, labels = training_latents(model, vae)
    index = torch.tensor([3, 0, 3, 1999])
    drawn = latents.draw(index, g)
    assert torch.equal(g.get_state(), generator(5).get_state()) and torch.equal(drawn[0], drawn[2])
    assert len(latents) == len(labels) == 2000 and drawn.shape == (4, 4, 8, 8)
    with np.load(model.training_images) as f:
        x = torch.from_numpy(f["images"][:500] / 127.5 - 1).float().permute(0, 3, 1, 2)
    expected = vae.encode(x).latent_dist.sample(generator(0)) * vae.config.scaling_factor
    torch.testing.assert_close(drawn[:2], expected[[3, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ((5, 64, 64), range(5), r"has images \(64, 64\), and .* is of 32×32 with 1"),
        ((5, 32, 32, 3), range(5), r"has images \(32, 32, 3\)"),
        ((5, 28, 28), [0, 1, 2, 3, 10], r"labels in \[0, 9\]"),
        ((5, 28, 28), range(4), "for each of its 5 images"),
    ],
)
def test_training_images_of_another_model_are_refused(tmp_path, images, labels, says):
    """The label 10 of a model of ten classes is its null class: classes that count from 1 trained something else."""
    np.savez(tmp_path / "train_images.npz", images=np.zeros(images, np.uint8), labels=np.array(list(labels)))
    own = get_model("pocket-dit")
    with pytest.raises(UserError, match=says):
        shipped_latents(tmp_path / "train_images.npz", loading.load_autoencoder(own), own)
