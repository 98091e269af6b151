"""Weights that are damaged are refused before anything is computed with them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harmonica.execution import Batch, run
from harmonica.models import MODELS
from harmonica.models.loading import load_autoencoder, load_backbone, load_text_encoder
from harmonica.plan import Protocol, all_compute
from harmonica.utils.errors import UserError

MODEL = MODELS["pocket-dit"]
TEXT = MODELS["pocket-pixart"]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tmp_path):
    """The pocket model in a folder of its own."""
    shutil.copytree(Path(MODEL.source), tmp_path / "m", ignore=shutil.ignore_patterns("*.npz"))
    return replace(MODEL, source=str(tmp_path / "m"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copy, value):
    path = Path(copy.source) / WEIGHTS
    state = load_file(path)
    name = sorted(state)[-1]
    state[name].view(-1)[3] = value
    save_file(state, path)
    with pytest.raises(UserError, match="weights that are not finite numbers"):
        load_backbone(copy)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (WEIGHTS, b"1234", "safetensors is not a complete safetensors file"),
        (
            WEIGHTS,
            b"version https://git-lfs.github.com/spec/v1",
            "is a Git-LFS pointer, not the file itself: run `git lfs pull`",
        ),
        ("transformer/config.json", b'{"num_layers": 1', "is not the configuration of pocket DiT"),
        ("transformer/config.json", b'{"num_layers": NaN}', "it has NaN"),
    ],
)
def test_truncated_files(copy, name, content, says):
    (Path(copy.source) / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_backbone(copy)


def test_blocks_that_the_configuration_does_not_have(copy):
    path = Path(copy.source) / "transformer" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"num_layers": about["num_layers"] - 1}))
    with pytest.raises(UserError, match=f"has {about['num_layers']} blocks, and its config.json says"):
        load_backbone(copy)


@pytest.mark.parametrize(("part", "load"), [("vae", load_autoencoder), ("text_encoder", load_text_encoder)])
@pytest.mark.parametrize("what", ["absent", "of another shape", "not finite"])
def test_other_parts_are_as_complete(tmp_path, part, load, what):
    """The libraries' own loaders take random numbers for a weight that is not there."""
    shutil.copytree(Path(TEXT.source), tmp_path / "m", ignore=shutil.ignore_patterns("*.npz"))
    model = replace(TEXT, source=str(tmp_path / "m"))
    load(model)
    (path,) = (tmp_path / "m" / part).glob("*.safetensors")
    state = load_file(path)
    name = sorted(k for k in state if state[k].ndim == 2 or "conv_in.weight" in k)[-1]
    if what == "absent":
        del state[name]
    elif what == "not finite":
        state[name].view(-1)[0] = float("nan")
    else:
        state[name] = state[name][:1].clone()
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the weights|not finite|shape|mismatch"):
        load(model)


def test_images_that_are_not_finite():
    with pytest.raises(UserError, match="decoded images of pocket-dit are not finite"):
        backbone = load_backbone(MODEL)
        plan = all_compute(Protocol("pocket-dit", "ddim", 2, 1.3), len(MODEL.layout.branches))
        run(backbone, plan, Batch.of(backbone, 0, 0, 1), decode=lambda x: x.repeat(1, 1, 2, 2) / 0)


def test_latents_that_are_not_finite_name_the_step():
    """As after a weight that overflows: black images, and a FID of them, said nothing."""
    backbone = load_backbone(MODEL)
    plan = all_compute(Protocol("pocket-dit", "ddim", 4, 1.5), len(MODEL.layout.branches))
    last = [p for p in backbone.parameters() if p.ndim == 1][-1]
    with torch.no_grad():
        last.fill_(float("nan"))
    with pytest.raises(UserError, match="under the plan of .* are not finite from step 0 of 4 on"):
        run(backbone, plan, Batch.of(backbone, 0, 0, 2))
