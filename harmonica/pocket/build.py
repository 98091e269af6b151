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

from harmonica.evaluation.distances import Gaussian, frechet_distance
from harmonica.evaluation.features.classifier import classifier_features
from harmonica.evaluation.features.networks import WEIGHTS
from harmonica.evaluation.generate import in_memory
from harmonica.evaluation.references import SHIPPED_SIDE, Identity, Reference
from harmonica.execution.run import to_pixels
from harmonica.models import Model, get_model, shipped
from harmonica.models.loading import decoder, load_autoencoder, load_backbone
from harmonica.plan import Origin, Protocol, all_compute
from harmonica.pocket import CLASSES
from harmonica.pocket.data import fashion_mnist
from harmonica.pocket.train import (
    encode,
    save_pipeline,
    train_autoencoder,
    train_classifier,
    train_transformer,
    tune_decoder,
    tune_guidance,
)
from harmonica.utils import POCKET, content_hash, write_atomic
from harmonica.utils.arrays import write_npz
from harmonica.utils.images import pad_to_32
from harmonica.utils.provenance import device, versions

SHIPPED_IMAGES = 5000  # of the training set, for methods that train on images
QUALITY_STEPS, QUALITY_SEEDS = (50, 20, 10), 3


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = 1000) -> None:
    """Make the pocket folder `out`, or replace it; checkpoints go to `work`, from which a stopped run resumes.

    `steps` replaces the recipe's steps in every stage, for a trial run; quality is measured on `images` images
    per seed.
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
    write_npz(new / "train_images.npz", {"images": pictures[own, 2:-2, 2:-2], "labels": labels[own]})
    write_reference(new, pictures, "fashion-mnist")
    runs = {
        "classifier": classifier_run,
        "autoencoder": autoencoder_run,
        "decoder": decoder_run,
        "transformer": transformer_run,
        "guidance": guidance_run,
    }
    finish(new, out, {"training": trained(runs), "quality": measure_quality(new, test, test_labels, images)}, card)


def scaled(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Means and standard deviations of latents (n, 4, 8, 8), scaled to unit variance, and the factor."""
    scale = float((mean.var() + std.square().mean()).rsqrt())
    return mean * scale, std * scale, scale


def trained(runs: dict) -> dict:
    """The card's record of each stage."""
    return {
        name: {
            "steps": r.step,
            "minutes": round(r.seconds / 60, 1),
            "loss": float(np.mean([v for _, v in r.log[-10:]])),
        }
        for name, r in runs.items()
    }


def finish(new: Path, out: Path, measured: dict, card: Callable[[dict], str]) -> None:
    """Write record and card, and replace the previous folder."""
    record = {"device": device(), "versions": versions(), **measured}
    write_atomic(new / "quality.json", json.dumps(record, indent=1) + "\n")
    write_atomic(new / "README.md", card(record))
    if out.exists():
        shutil.rmtree(out)
    new.rename(out)
    if out.resolve().parent == POCKET:
        shipped.record()


def write_classifier(out: Path, net: torch.nn.Module) -> None:
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, out / "classifier" / "model.safetensors")


def write_reference(out: Path, images: np.ndarray, data: str) -> None:
    """Write statistics of images uint8 (n, 32, 32[, C]) and pooled features of the last 10 000 as the reference of a
    data set."""
    f = classifier_features(out)(images)
    about = Identity(content_hash(out / WEIGHTS), data, "shipped", SHIPPED_SIDE, len(images))
    own = Reference(Gaussian.of(f.pooled), Gaussian.of(f.spatial), f.pooled[-10_000:], about)
    own.save(out / "reference.npz")


def measure_quality(out: Path, test: np.ndarray, labels: np.ndarray, n: int) -> dict:
    """Quality of the models in `out`: FIDs at equal N against the training set.

    The floor is that of real test images, the mean over disjoint sets of N: a single set's FID varies by a third.
    """
    extract, reference = classifier_features(out), Reference.load(out / "reference.npz")
    own = replace(get_model("pocket-dit"), source=str(out))
    backbone, vae = load_backbone(own), load_autoencoder(own)

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
    return quality | generated_quality(own, n, (backbone, decoder(vae)), extract, reference)


def generated_quality(own: Model, n: int, parts: tuple, extract: Callable, reference: Reference) -> dict:
    """FIDs of generated images at equal N, and how often the classifier finds the requested class, in percent; `parts`
    are backbone and decoder."""
    quality: dict = {}
    bar = tqdm(total=len(QUALITY_STEPS) * QUALITY_SEEDS, desc="quality")
    for steps in QUALITY_STEPS:
        fids, agreement = [], []
        for seed in range(QUALITY_SEEDS):
            protocol = Protocol(own.name, own.sampler, steps, own.cfg)
            plan = all_compute(protocol, len(own.layout.branches), Origin("full"))
            images, classes = in_memory(plan, n, parts, seed=seed)
            f = extract(images)
            fids.append(frechet_distance(Gaussian.of(f.pooled), reference.pooled))
            agreement.append(100 * float((f.logits.argmax(1) == classes).mean()))
            bar.update()
        quality[f"FID_{steps}"], quality[f"agreement_{steps}"] = fids, agreement
    bar.close()
    return quality


def quality_rows(q: dict) -> str:
    """Rows of a card: steps, FIDs and agreement, one value per seed."""
    return "\n".join(
        f"| {s} | {', '.join(f'{v:.3f}' for v in q[f'FID_{s}'])} | "
        f"{', '.join(f'{v:.1f}' for v in q[f'agreement_{s}'])} |" for s in QUALITY_STEPS
    )  # fmt: skip


def fill_card(name: str, record: dict, **more) -> str:
    """The model card from its template in cards/; `record` has what was measured."""
    stages = (f"| {k} | {v['steps']} | {v['minutes']} | {v['loss']:.4f} |" for k, v in record["training"].items())
    template = (Path(__file__).parent / "cards" / f"{name}.md").read_text("utf-8")
    return template.format(record=record, q=record["quality"], stages="\n".join(stages), **more)


def card(record: dict) -> str:
    """The model card, from what was measured."""
    q, floor, falls = record["quality"], record["quality"]["floor_FID"], []
    for many, few in zip(QUALITY_STEPS, QUALITY_STEPS[1:], strict=False):
        gaps = [b - a for a, b in zip(q[f"FID_{many}"], q[f"FID_{few}"], strict=True)]
        falls.append(f"from {few} to {many} by {mean(gaps):.3f} ± {stdev(gaps):.3f}")
    return fill_card(
        "pocket-dit", record, shipped=SHIPPED_IMAGES, classes=", ".join(CLASSES), fids=quality_rows(q),
        falls=" and ".join(falls), floor=mean(floor), sets=len(floor), low=min(floor), high=max(floor),
        autoencoder=mean(q["autoencoder_FID"]), cfg=get_model("pocket-dit").cfg,
    )  # fmt: skip
