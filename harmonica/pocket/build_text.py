"""From Noto emoji to the shipped text-to-image folder: train, write pipeline, CLIP, classifier, reference and card."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harmonica.backbones.base import CaptionsInMemory
from harmonica.evaluation.distances import Gaussian, clip_score, frechet_distance
from harmonica.evaluation.features.classifier import classifier_features
from harmonica.evaluation.features.clip import Clip
from harmonica.evaluation.generate import in_memory
from harmonica.evaluation.references import Reference
from harmonica.models import Model, get_model
from harmonica.models.embeddings import embed
from harmonica.models.loading import load_backbone, load_decoder, load_text_encoder
from harmonica.plan import Protocol, all_compute
from harmonica.pocket.build import fill_card, finish, scaled, trained, write_classifier, write_reference
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
from harmonica.utils.arrays import write_npz

PROMPTS = ("red heart", "green apple", "yellow star", "blue book")  # shown in the card
SHIPPED_IMAGES = 2000  # of the training pictures, for methods that train on images


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = HELD_OUT) -> None:
    """Make the pocket folder `out`, or replace it, from the unpacked package `data`; checkpoints go to `work`.

    No training sees the first HELD_OUT captions and their pictures. `steps` replaces the recipe's steps in every
    stage, for a trial run; quality is measured on `images` images.
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
    shipped = {"images": seen[:SHIPPED_IMAGES], "labels": np.arange(SHIPPED_IMAGES) + HELD_OUT}
    write_npz(new / "train_images.npz", shipped)
    write_reference(new, pictures, "noto-emoji")
    runs = {"classifier": classifier_run, "clip": clip_run, "autoencoder": autoencoder_run, "text-to-image": run}
    finish(new, out, {"training": trained(runs), "quality": measure_quality(new, pictures, labels, images)}, card)


def measure_quality(out: Path, pictures: np.ndarray, labels: np.ndarray, n: int) -> dict:
    """Quality of `out`'s models on the first n held-out captions: CLIP scores and FIDs of real and generated
    images."""
    extract, reference = classifier_features(out), Reference.load(out / "reference.npz")
    clip = Clip(f"local-dir:{out / 'clip'}")
    about = get_model("pocket-pixart")
    own = replace(about, source=str(out), captions=replace(about.captions, file=str(out / CAPTIONS.name)))
    embed(own)
    captions = own.captions.read()[:n]
    real = pictures[:n]

    def of(images: np.ndarray) -> dict:
        f = extract(images)
        return {"CLIP": clip_score(clip.cosines(images, captions)),
                "FID": frechet_distance(Gaussian.of(f.pooled), reference.pooled)}  # fmt: skip

    mismatched = [clip_score(clip.cosines(np.roll(real, k, 0), captions)) for k in range(1, 11)]
    seen = extract(pictures[HELD_OUT:]).logits.argmax(1)
    quality = {"N": n, "real": of(real), "mismatched_CLIP": float(np.mean(mismatched)),
               "classifier_train_accuracy": 100 * float((seen == labels).mean())}  # fmt: skip
    grid = generate_prompts(own, list(PROMPTS), 12).transpose(0, 2, 1, 3, 4).reshape(len(PROMPTS) * SIDE, -1, 3)
    Image.fromarray(grid).resize((grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST).save(
        out / "prompts.png"
    )
    parts = load_backbone(own), load_decoder(own)
    for sampler, steps in (("dpmsolver++", 20), ("iddpm", 100), ("sa-solver", 25)):
        plan = all_compute(Protocol(own.name, sampler, steps, 4.5), len(own.layout.branches))
        with torch.inference_mode():
            quality[f"{sampler} {steps}"] = of(in_memory(plan, n, parts)[0])
    return quality


def generate_prompts(model: Model, prompts: list[str], seeds: int) -> np.ndarray:
    """Images uint8 (prompts, seeds, 32, 32, 3) of any prompts: DPM-Solver++, 20 steps, guidance scale 4.5."""
    backbone, encode = load_backbone(model), load_text_encoder(model)
    backbone.conditioning = CaptionsInMemory(*encode([p for p in prompts for _ in range(seeds)] + [""]))
    plan = all_compute(Protocol(model.name, "dpmsolver++", 20, 4.5), len(model.layout.branches))
    images, _ = in_memory(plan, len(prompts) * seeds, (backbone, load_decoder(model)))
    return images.reshape(len(prompts), seeds, *images.shape[1:])


def share(quality: dict, sampler: str) -> float:
    """The CLIP score of generated images between mismatched pairs (0 %) and the real pictures (100 %)."""
    low = quality["mismatched_CLIP"]
    return 100 * (quality[sampler]["CLIP"] - low) / (quality["real"]["CLIP"] - low)


def card(record: dict) -> str:
    """The model card, from what was measured."""
    q = record["quality"]
    rows = (f"| {k} | {v['CLIP']:.1f} | {share(q, k):.0f} | {v['FID']:.3f} |" for k, v in q.items() if " " in k)
    return fill_card(
        "pocket-pixart", record, shipped=SHIPPED_IMAGES, held_out=HELD_OUT, rows="\n".join(rows),
        quoted=", ".join(f"“{p}”" for p in PROMPTS), prompts=", ".join(PROMPTS),
    )  # fmt: skip
