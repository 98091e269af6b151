"""From Noto emoji to the shipped text-to-image folder: train, write pipeline, CLIP, classifier, reference and card."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harmonica.captions import CaptionsInMemory, embed
from harmonica.clip import Clip
from harmonica.extractors import Reference, classifier_features
from harmonica.metrics import Gaussian, clip_score, frechet_distance
from harmonica.models import Model, get_model
from harmonica.plan import Origin, all_compute
from harmonica.pocket.build import finish, scaled, trained, write_classifier, write_reference
from harmonica.pocket.emoji import CAPTIONS, HELD_OUT, SIDE, read_captions, read_images
from harmonica.pocket.train import encode, train_autoencoder, train_classifier
from harmonica.pocket.train_text import (
    AUTOENCODER_RGB,
    make_tokenizer,
    save_clip,
    save_pipeline,
    train_clip,
    train_text_to_image,
)
from harmonica.provenance import write_npz
from harmonica.shards import draw_in_memory

PROMPTS = ("red heart", "green apple", "yellow star", "blue book")  # the card shows them
SHIPPED_IMAGES = 2000  # of the pictures that were trained on, for methods that train on images


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = HELD_OUT) -> None:
    """Make the pocket folder `out`, or replace it, from the unpacked package `data`; checkpoints go to `work`.

    The first HELD_OUT captions and their pictures are seen by no training. `steps` replaces the recipe's number of
    steps in every stage, for a trial; quality is measured with `images` images.
    """
    captions = read_captions()
    pictures = read_images(data, captions)
    own, seen = captions[HELD_OUT:], pictures[HELD_OUT:]
    work.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "classifier").mkdir(parents=True)

    options = {} if steps is None else {"steps": steps}
    groups = sorted({c.group for c in captions})
    labels = np.array([groups.index(c.group) for c in own])
    net, classifier_run = train_classifier(seen, labels, work / "classifier.pt", classes=len(groups), **options)
    clip, clip_run = train_clip(seen, own, work / "clip.pt", **options)
    vae, autoencoder_run = train_autoencoder(seen, work / "autoencoder.pt", config=AUTOENCODER_RGB, **options)
    mean, std, scale = scaled(*encode(vae, seen))
    tokenizer = make_tokenizer(own)
    model, text_encoder, run = train_text_to_image(mean, std, own, tokenizer, work / "text-to-image.pt", **options)

    shutil.copy(CAPTIONS, new / CAPTIONS.name)
    save_pipeline(new, vae, model, text_encoder, tokenizer, scale)
    save_clip(new / "clip", clip)
    write_classifier(new, net)
    write_npz(new / "train_images.npz", images=seen[:SHIPPED_IMAGES], labels=np.arange(SHIPPED_IMAGES) + HELD_OUT)
    write_reference(new, pictures)
    runs = {"classifier": classifier_run, "clip": clip_run, "autoencoder": autoencoder_run, "text-to-image": run}
    finish(new, out, {"training": trained(runs), "quality": measure_quality(new, pictures, labels, images)}, card)


def measure_quality(out: Path, pictures: np.ndarray, labels: np.ndarray, n: int) -> dict:
    """What the models in `out` do on the first n held-out captions: CLIP scores and FIDs of real and drawn images."""
    extract, reference = classifier_features(out), Reference.load(out / "reference.npz")
    clip = Clip(f"local-dir:{out / 'clip'}")
    about = get_model("pocket-pixart")
    own = replace(about, source=str(out), captions=replace(about.captions, file=str(out / CAPTIONS.name)))
    embed(own)
    asked = own.captions.read()[:n]
    real = pictures[:n]

    def of(images: np.ndarray) -> dict:
        f = extract(images)
        return {"CLIP": clip_score(clip.cosines(images, asked)),
                "FID": frechet_distance(Gaussian.of(f.pooled), reference.pooled)}  # fmt: skip

    mismatched = [clip_score(clip.cosines(np.roll(real, k, 0), asked)) for k in range(1, 11)]
    seen = extract(pictures[HELD_OUT:]).logits.argmax(1)
    quality = {"N": n, "real": of(real), "mismatched_CLIP": float(np.mean(mismatched)),
               "classifier_train_accuracy": 100 * float((seen == labels).mean())}  # fmt: skip
    grid = draw_prompts(own, list(PROMPTS), 12).transpose(0, 2, 1, 3, 4).reshape(len(PROMPTS) * SIDE, -1, 3)
    Image.fromarray(grid).resize((grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST).save(
        out / "prompts.png"
    )
    parts = own.load_backbone(), own.load_decoder()
    for sampler, steps in (("dpmsolver++", 20), ("iddpm", 100), ("sa-solver", 25)):
        plan = all_compute(Origin(own.name, sampler, steps, 4.5, "full"), len(own.shape.branches))
        with torch.inference_mode():
            quality[f"{sampler} {steps}"] = of(draw_in_memory(plan, n, parts)[0])
    return quality


def draw_prompts(model: Model, prompts: list[str], seeds: int) -> np.ndarray:
    """Images uint8 (prompts, seeds, 32, 32, 3) of any prompts: DPM-Solver++, 20 steps, guidance scale 4.5."""
    backbone, encode = model.load_backbone(), model.load_text_encoder()
    backbone.captions = CaptionsInMemory(*encode([p for p in prompts for _ in range(seeds)] + [""]))
    plan = all_compute(Origin(model.name, "dpmsolver++", 20, 4.5, "full"), len(model.shape.branches))
    images, _ = draw_in_memory(plan, len(prompts) * seeds, (backbone, model.load_decoder()))
    return images.reshape(len(prompts), seeds, *images.shape[1:])


def share(quality: dict, sampler: str) -> float:
    """The CLIP score of drawn images between mismatched pairs (0 %) and the real pictures (100 %)."""
    low = quality["mismatched_CLIP"]
    return 100 * (quality[sampler]["CLIP"] - low) / (quality["real"]["CLIP"] - low)


def card(record: dict) -> str:
    """The model card, from what was measured."""
    q, t = record["quality"], record["training"]
    stages = "\n".join(f"| {k} | {v['steps']} | {v['minutes']} | {v['loss']:.4f} |" for k, v in t.items())
    drawn = "\n".join(
        f"| {k} | {v['CLIP']:.1f} | {share(q, k):.0f} | {v['FID']:.3f} |" for k, v in q.items() if " " in k
    )
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Pocket PixArt: Noto emoji at 32×32 and their names

A text-conditional latent diffusion transformer in the pipeline shape of PixArt-α, small enough for a laptop's CPU.

- **Data**: Google's Noto emoji (Apache-2.0), 3786 pictures of 64×64 from the npm package `emoji-datasource-google`
  16.0.0, on white, resized to 32×32. Captions are CLDR's short names (Unicode licence) from the PyPI package `emoji`
  2.16.0; for flags, "flag of …". `captions.csv` holds them in an order drawn once. Its first {HELD_OUT} captions, with
  their pictures, are in no training: tables draw them. `train_images.npz` holds {SHIPPED_IMAGES} of the other pictures.
- **Colour**: where one colour fills 60 % of a picture and its name does not say it, `captions.csv` says it; 30 % of the
  training captions begin with it ("yellow star").
- **Weights' licence**: Apache-2.0.
- **Parts**: `vae` (AutoencoderKL, latents 4×8×8), `transformer` (PixArtTransformer2DModel, 8 blocks × 160, patch 2,
  learned variance, EMA 0.9995), `text_encoder` (T5EncoderModel, 2 layers × 128) and its `tokenizer` (unigrams of the
  training captions), `clip` (open_clip, for the CLIP score), `classifier` (a CNN of Unicode's 99 subgroups: the other
  metrics' features), `reference.npz` (its feature statistics of all pictures).
- **Recipe**: `harmonica pocket train --model pocket-pixart --data FOLDER -o OUT` runs `harmonica/pocket/train_text.py`.
  Transformer and text encoder are trained together (Muon for the blocks' matrices, AdamW for the rest), captions
  dropped at 10 %. It took the times below on {record["device"]}, with torch {record["versions"]["torch"]}.

| stage | steps | minutes | mean of the last losses |
|---|---|---|---|
{stages}

Quality on {q["N"]} held-out captions at guidance scale 4.5. The CLIP score is by the `clip` above, and compares only
with itself: real pictures have {q["real"]["CLIP"]:.1f} (FID {q["real"]["FID"]:.3f}), mismatched pairs
{q["mismatched_CLIP"]:.1f}. The share is of the way from these to those.

| sampler, steps | CLIP | share, % | FID |
|---|---|---|---|
{drawn}

Twelve seeds each of {", ".join(f"“{p}”" for p in PROMPTS)} (DPM-Solver++, 20 steps):

![{", ".join(PROMPTS)}](prompts.png)

The classifier is right on {q["classifier_train_accuracy"]:.1f} % of the pictures it was trained on.
"""
