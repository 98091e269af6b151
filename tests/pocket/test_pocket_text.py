"""The text-to-image pocket models: what is shipped, and the recipe at a trial's size."""

import json

import numpy as np
import pytest
import torch

import harmonica
from harmonica.evaluation.generate import in_memory, load_parts
from harmonica.experiments import Experiment
from harmonica.models import get_model
from harmonica.models.catalog import TEXT_TO_IMAGE
from harmonica.models.embeddings import embedded
from harmonica.models.loading import load_backbone
from harmonica.pocket.emoji import HELD_OUT, main_colour, read_captions
from harmonica.utils.files import POCKET

MODEL = get_model("pocket-pixart")


@pytest.fixture(scope="module")
def quality():
    return json.loads((TEXT_TO_IMAGE / "quality.json").read_text())["quality"]


def test_shipped_files():
    files = [p for p in POCKET.rglob("*") if p.is_file() and p.suffix != ".py"]
    assert sum(p.stat().st_size for p in files) < 80e6
    captions = read_captions()
    assert len({c.caption for c in captions}) == len(captions) == 3786 and MODEL.captions.images == HELD_OUT
    with np.load(TEXT_TO_IMAGE / "train_images.npz") as f:
        assert f["labels"].min() == HELD_OUT and len(f["images"]) == len(f["labels"])
    assert sum(p.numel() for p in load_backbone(MODEL).parameters()) < 5e6


def test_images_fit_held_out_captions(quality):
    """At least 80 % of the way from mismatched pairs to the real pictures, under every sampler."""
    from harmonica.pocket.build_text import share

    assert quality["N"] == HELD_OUT and quality["real"]["CLIP"] > 2 * quality["mismatched_CLIP"]
    assert all(share(quality, k) >= 80 for k in quality if " " in k)


def test_colours_of_common_prompts():
    from harmonica.pocket.build_text import PROMPTS, generate_prompts

    for prompt, images in zip(PROMPTS, generate_prompts(MODEL, list(PROMPTS), 6), strict=True):
        colours = [main_colour(x[(x < 230).any(2)]) for x in images]
        assert colours.count(prompt.split()[0]) >= 4, (prompt, colours)


@pytest.fixture(scope="module")
def pipe():
    from diffusers import PixArtAlphaPipeline

    pipe = PixArtAlphaPipeline.from_pretrained(TEXT_TO_IMAGE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_pipeline_embeds_captions_as_the_suite_does(pipe):
    labels = torch.tensor([0, 5, 17])
    captions = MODEL.captions.read()
    ours, mask = embedded(MODEL)(labels)
    theirs, their_mask, _, _ = pipe.encode_prompt(
        [captions[k] for k in labels], do_classifier_free_guidance=False, max_sequence_length=MODEL.text_tokens
    )
    assert torch.equal(mask, their_mask)
    torch.testing.assert_close(ours, theirs * their_mask[..., None], atol=1e-5, rtol=1e-4)


def test_a_plan_on_the_shipped_pipeline(pipe):
    """The stock pipeline under a plan generates what the suite generates from the same noise."""
    plan, _ = Experiment.of("pocket-pixart", "dpmsolver++", 10, 4.5, "fora", {"interval": 2}).make()
    images, labels = in_memory(plan, 3, load_parts("pocket-pixart"))
    captions = MODEL.captions.read()
    noise = [np.random.default_rng([0, k]).standard_normal((4, 8, 8), np.float32) for k in range(3)]
    harmonica.enable_cache(pipe, plan)
    theirs = pipe(
        [captions[k] for k in labels], latents=torch.from_numpy(np.stack(noise)), num_inference_steps=10,
        guidance_scale=4.5, height=32, width=32, use_resolution_binning=False, clean_caption=False, output_type="np",
    ).images  # fmt: skip
    harmonica.disable_cache(pipe)
    assert np.abs(255 * theirs - images).mean() < 1  # they round to the nearest, ADM's protocol adds half a step


@pytest.mark.slow
@pytest.mark.extended
def test_recipe(tmp_path):
    """From a package with the shipped pictures, plain ones where none is shipped, to a folder that a pipeline reads."""
    from diffusers import PixArtAlphaPipeline
    from PIL import Image

    from harmonica.pocket.build_text import build
    from harmonica.utils.errors import UserError

    folder = tmp_path / "package" / "img" / "google" / "64"
    folder.mkdir(parents=True)
    with np.load(TEXT_TO_IMAGE / "train_images.npz") as f:
        shipped = dict(zip(f["labels"].tolist(), f["images"], strict=True))
    for k, c in enumerate(read_captions()):
        if k in shipped:
            Image.fromarray(shipped[k]).resize((64, 64)).save(folder / c.image)
        else:
            Image.new("RGBA", (64, 64), (k % 256, k // 16, 90, 255)).save(folder / c.image)
    out = tmp_path / "out"
    build(tmp_path / "package", out, tmp_path / "work", steps=2, images=12)
    pipe = PixArtAlphaPipeline.from_pretrained(out)
    assert pipe.transformer.config.num_layers == 8 and pipe.text_encoder.config.d_model == 128
    record = json.loads((out / "quality.json").read_text())
    assert record["training"]["text-to-image"]["steps"] == 2 and record["quality"]["N"] == 12
    assert (out / "captions.csv").read_bytes() == (TEXT_TO_IMAGE / "captions.csv").read_bytes()
    next(folder.glob("*.png")).unlink()
    with pytest.raises(UserError, match="pass the folder of the unpacked npm package"):
        build(tmp_path / "package", out, tmp_path / "work", steps=2, images=12)
