"""From the data to the shipped folder: train, then write pipeline, classifier, references and card."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from harmonica.extractors import Reference, classifier_features
from harmonica.metrics import Gaussian, frechet_distance
from harmonica.models import Model, decoder, get_model
from harmonica.plan import Origin, all_compute
from harmonica.pocket import CLASSES
from harmonica.pocket.data import fashion_mnist, pad_to_32
from harmonica.pocket.train import (
    encode,
    save_pipeline,
    train_autoencoder,
    train_classifier,
    train_transformer,
    tune_decoder,
    tune_guidance,
)
from harmonica.provenance import device, versions, write_npz, write_whole
from harmonica.sampling import to_pixels
from harmonica.shards import draw_in_memory

SHIPPED_IMAGES = 5000  # of the training set, for methods that train on images
QUALITY_STEPS, QUALITY_SEEDS = (50, 20, 10), 3


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = 1000) -> None:
    """Make the pocket folder `out`, or replace it; checkpoints go to `work`, and a stopped run goes on from them.

    `steps` replaces the recipe's number of steps in every stage, for a trial; quality is measured with `images` images
    a seed.
    """
    pictures, labels = fashion_mnist(data, "train")
    test, test_labels = fashion_mnist(data, "test")
    pictures, test = pad_to_32(pictures), pad_to_32(test)
    work.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "classifier").mkdir(parents=True)

    options = {} if steps is None else {"steps": steps}
    net, classifier_run = train_classifier(pictures, labels, work / "classifier.pt", **options)
    vae, autoencoder_run = train_autoencoder(pictures, work / "autoencoder.pt", **options)
    centre, spread = encode(vae, pictures)
    vae, decoder_run = tune_decoder(vae, centre, spread, pictures, work / "decoder.pt", **options)
    centre, spread, scale = scaled(centre, spread)
    latents = (centre, spread, labels)
    model, transformer_run = train_transformer(*latents, work / "transformer.pt", **options)
    model, guidance_run = tune_guidance(model, *latents, work / "guidance.pt", **options)

    save_pipeline(new, vae, model, scale)
    write_classifier(new, net)
    own = slice(SHIPPED_IMAGES)
    write_npz(new / "train_images.npz", images=pictures[own, 2:-2, 2:-2], labels=labels[own])
    write_reference(new, pictures)
    runs = {
        "classifier": classifier_run,
        "autoencoder": autoencoder_run,
        "decoder": decoder_run,
        "transformer": transformer_run,
        "guidance": guidance_run,
    }
    finish(new, out, {"training": trained(runs), "quality": measure_quality(new, test, test_labels, images)}, card)


def scaled(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Means and standard deviations of latents, brought to unit variance, and the factor that does it."""
    scale = float((mean.var() + std.square().mean()).rsqrt())
    return mean * scale, std * scale, scale


def trained(runs: dict) -> dict:
    """What the card says of every stage."""
    return {
        name: {
            "steps": r.step,
            "minutes": round(r.seconds / 60, 1),
            "loss": float(np.mean([v for _, v in r.log[-10:]])),
        }
        for name, r in runs.items()
    }


def finish(new: Path, out: Path, measured: dict, card: Callable[[dict], str]) -> None:
    """Write record and card, and put the whole folder in place of the one before."""
    record = {"device": device(), "versions": versions(), **measured}
    write_whole(new / "quality.json", json.dumps(record, indent=1) + "\n")
    write_whole(new / "README.md", card(record))
    if out.exists():
        shutil.rmtree(out)
    new.rename(out)


def write_classifier(out: Path, net: torch.nn.Module) -> None:
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, out / "classifier" / "model.safetensors")


def write_reference(out: Path, images: np.ndarray) -> None:
    """Statistics of images uint8 (n, 32, 32[, C]) and pooled features of 10 000 of them, as the metrics read them."""
    f = classifier_features(out)(images)
    Reference(Gaussian.of(f.pooled), Gaussian.of(f.spatial), f.pooled[-10_000:]).save(out / "reference.npz")


def measure_quality(out: Path, test: np.ndarray, labels: np.ndarray, n: int) -> dict:
    """What the models in `out` do: FIDs at equal N against the training set.

    The floor is that of real test images, the mean over disjoint sets of N: a single set's FID varies by a third.
    """
    extract, reference = classifier_features(out), Reference.load(out / "reference.npz")
    own = replace(get_model("pocket-dit"), source=str(out))
    backbone, vae = own.load_backbone(), own.load_autoencoder()

    def fid(pooled: np.ndarray) -> float:
        return frechet_distance(Gaussian.of(pooled), reference.pooled)

    real = extract(test)
    with torch.inference_mode():
        latents, _ = encode(vae, test)
        decoded = torch.cat([to_pixels(vae.decode(z.to(vae.device)).sample).cpu() for z in latents.split(100)])
    again = extract(decoded.numpy())
    sets = [slice(i, i + n) for i in range(0, len(test) - n + 1, n)]
    quality = {
        "N": n,
        "test_accuracy": 100 * float((real.logits.argmax(1) == labels).mean()),
        "floor_FID": [fid(real.pooled[s]) for s in sets],
        "autoencoder_FID": [fid(again.pooled[s]) for s in sets],
    }
    return quality | drawn_quality(own, n, (backbone, decoder(vae)), extract, reference)


def drawn_quality(own: Model, n: int, parts: tuple, extract: Callable, reference: Reference) -> dict:
    """FIDs of drawn images at equal N, and how often the classifier finds the class that was asked for, in percent;
    `parts` are backbone and decoder."""
    quality: dict = {}
    bar = tqdm(total=len(QUALITY_STEPS) * QUALITY_SEEDS, desc="quality")
    for steps in QUALITY_STEPS:
        fids, agreement = [], []
        for seed in range(QUALITY_SEEDS):
            origin = Origin(own.name, own.sampler, steps, own.cfg, "full", seed=seed)
            drawn, asked = draw_in_memory(all_compute(origin, len(own.shape.branches)), n, parts)
            f = extract(drawn)
            fids.append(frechet_distance(Gaussian.of(f.pooled), reference.pooled))
            agreement.append(100 * float((f.logits.argmax(1) == asked).mean()))
            bar.update()
        quality[f"FID_{steps}"], quality[f"agreement_{steps}"] = fids, agreement
    bar.close()
    return quality


def quality_rows(q: dict) -> str:
    """Of a card: steps, FIDs and agreement, one value a seed."""
    return "\n".join(
        f"| {s} | {', '.join(f'{v:.3f}' for v in q[f'FID_{s}'])} | "
        f"{', '.join(f'{v:.1f}' for v in q[f'agreement_{s}'])} |" for s in QUALITY_STEPS
    )  # fmt: skip


def card(record: dict) -> str:
    """The model card, from what was measured."""
    q, t = record["quality"], record["training"]
    stages = "\n".join(f"| {k} | {v['steps']} | {v['minutes']} | {v['loss']:.4f} |" for k, v in t.items())
    fids = quality_rows(q)
    falls = []
    for many, few in zip(QUALITY_STEPS, QUALITY_STEPS[1:], strict=False):
        gaps = [b - a for a, b in zip(q[f"FID_{many}"], q[f"FID_{few}"], strict=True)]
        falls.append(f"from {few} to {many} by {mean(gaps):.3f} ± {stdev(gaps):.3f}")
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: unconditional-image-generation
---
# Pocket DiT: Fashion-MNIST at 32×32

A class-conditional latent diffusion transformer in the pipeline shape of DiT-XL/2, small enough for a laptop's CPU.

- **Data**: Fashion-MNIST (Zalando Research, MIT licence), 60 000 training images, padded from 28×28 to 32×32.
  `train_images.npz` holds the first {SHIPPED_IMAGES} of them, for methods that train on images.
- **Weights' licence**: Apache-2.0. Classes: {", ".join(CLASSES)}.
- **Parts**: `vae` (AutoencoderKL, latents 4×8×8), `transformer` (DiTTransformer2DModel, 8 blocks × 128, patch 2,
  learned variance, EMA 0.9995), `classifier` (a small CNN: the metrics' features and logits),
  `reference.npz` (feature statistics of the training set, and 10 000 of its features).
- **Label dropout**: 10 %. In the stage `transformer` it is diffusers' `LabelEmbedding`, which draws anew in each
  block; the stage `guidance` goes on with one draw an image, the same in all blocks: "no label", as guidance asks.
- **Optimisers**: AdamW; in the stage `guidance`, Muon for the blocks' matrices. The stage `decoder` trains the
  autoencoder's decoder against a patch critic; the critic is not shipped.
- **Recipe**: `harmonica pocket train --data FOLDER -o OUT` runs `harmonica/pocket/train.py` from the data to this
  folder. It took the times below on {record["device"]}, with torch {record["versions"]["torch"]}.

| stage | steps | minutes | mean of the last losses |
|---|---|---|---|
{stages}

Quality at guidance scale 1.5, DDIM, N = {q["N"]} images a seed, in the classifier's 128-d features against the
training set (these are not Inception FIDs and compare only with each other, at equal N):

| steps | FID, one a seed | classifier finds the asked class, % |
|---|---|---|
{fids}

The seeds are the same at all numbers of steps, as they are for all methods in the tables. Seed for seed the FID falls
{" and ".join(falls)} (mean and standard deviation over the seeds).

Floor: {q["N"]} real test images have FID {mean(q["floor_FID"]):.3f} (the mean over {len(q["floor_FID"])} disjoint sets,
which range from {min(q["floor_FID"]):.3f} to {max(q["floor_FID"]):.3f}); passed through the autoencoder,
{mean(q["autoencoder_FID"]):.3f}. The classifier is right on {q["test_accuracy"]:.1f} % of the test images.
"""
