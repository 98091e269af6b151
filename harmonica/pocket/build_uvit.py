"""From Fashion-MNIST and the class-conditional folder's autoencoder to the shipped U-ViT: train, write, measure."""

import shutil
from dataclasses import replace
from pathlib import Path

from harmonica.extractors import Reference, classifier_features
from harmonica.models import get_model
from harmonica.pocket import CLASS_CONDITIONAL
from harmonica.pocket.build import drawn_quality, finish, quality_rows, scaled, trained
from harmonica.pocket.data import fashion_mnist, pad_to_32
from harmonica.pocket.train import encode
from harmonica.pocket.train_uvit import save_transformer, train_uvit


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = 1000) -> None:
    """Make the pocket folder `out`, or replace it; checkpoints go to `work`, and a stopped run goes on from them.

    Autoencoder, classifier and reference are those of the pocket DiT. `steps` replaces the recipe's number of steps,
    for a trial; quality is measured with `images` images a seed.
    """
    pictures, labels = fashion_mnist(data, "train")
    about = get_model("pocket-uvit")
    mean, std, _ = scaled(*encode(about.load_autoencoder(), pad_to_32(pictures)))
    work.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    options = {} if steps is None else {"steps": steps}
    model, run = train_uvit(mean, std, labels, work / "u-vit.pt", **options)
    save_transformer(new, model)
    own, reference = replace(about, source=str(new)), Reference.load(CLASS_CONDITIONAL / "reference.npz")
    parts = own.load_backbone(), own.load_decoder()
    quality = drawn_quality(own, images, parts, classifier_features(CLASS_CONDITIONAL), reference)
    finish(new, out, {"training": trained({"u-vit": run}), "quality": {"N": images} | quality}, card)


def card(record: dict) -> str:
    """The model card, from what was measured."""
    q, t = record["quality"], record["training"]["u-vit"]
    return f"""---
license: apache-2.0
pipeline_tag: unconditional-image-generation
---
# Pocket U-ViT: Fashion-MNIST at 32×32

A class-conditional latent U-ViT (long skips, time and label as tokens) in the shape of U-ViT-H/2, small enough for a
laptop's CPU.

- **Data**: Fashion-MNIST (Zalando Research, MIT licence), 60 000 training images, as latents of the autoencoder beside
  it in `../fashion-mnist`, whose classifier and reference statistics measure it, too.
- **Weights' licence**: Apache-2.0. `transformer` has the original U-ViT's parameter names: 9 blocks × 128, patch 2,
  EMA 0.9995, predicted noise, labels dropped at 10 %, the noise schedule of Stable Diffusion.
- **Optimisers**: Muon for the blocks' matrices, AdamW for the rest.
- **Recipe**: `harmonica pocket train --model pocket-uvit --data FOLDER -o OUT` runs `harmonica/pocket/train_uvit.py`:
  {t["steps"]} steps, {t["minutes"]} minutes on {record["device"]} with torch {record["versions"]["torch"]}; the mean of
  the last losses is {t["loss"]:.4f}.

Quality at guidance scale 1.4, DPM-Solver-2 (a step is one evaluation of the model), N = {q["N"]} images a seed, in the
classifier's 128-d features against the training set (these are not Inception FIDs and compare only with each other, at
equal N):

| steps | FID, one a seed | classifier finds the asked class, % |
|---|---|---|
{quality_rows(q)}
"""
