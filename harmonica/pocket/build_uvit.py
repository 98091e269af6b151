"""From Fashion-MNIST and the class-conditional folder's autoencoder to the shipped U-ViT: train, write, measure."""

import shutil
from dataclasses import replace
from pathlib import Path

from harmonica.evaluation.features.classifier import classifier_features
from harmonica.evaluation.references import shipped_reference
from harmonica.models import get_model
from harmonica.models.catalog import CLASS_CONDITIONAL
from harmonica.models.loading import load_autoencoder, load_backbone, load_decoder
from harmonica.pocket.build import fill_card, finish, generated_quality, quality_rows, scaled, trained
from harmonica.pocket.data import fashion_mnist
from harmonica.pocket.train import encode
from harmonica.pocket.train_uvit import save_transformer, train_uvit
from harmonica.utils.images import pad_to_32


def build(data: Path, out: Path, work: Path, steps: int | None = None, images: int = 1000) -> None:
    """Make the pocket folder `out`, or replace it; checkpoints go to `work`, from which a stopped run resumes.

    Autoencoder, classifier and reference are those of the pocket DiT. `steps` replaces the recipe's steps, for a
    trial run; quality is measured on `images` images per seed.
    """
    pictures, labels = fashion_mnist(data, "train")
    about = get_model("pocket-uvit")
    mean, std, _ = scaled(*encode(load_autoencoder(about), pad_to_32(pictures)))
    work.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    options = {} if steps is None else {"steps": steps}
    model, run = train_uvit(mean, std, labels, work / "u-vit.pt", **options)
    save_transformer(new, model)
    own, reference = replace(about, source=str(new)), shipped_reference("fashion-mnist-cnn")
    parts = load_backbone(own), load_decoder(own)
    quality = generated_quality(own, images, parts, classifier_features(CLASS_CONDITIONAL), reference)
    finish(new, out, {"training": trained({"u-vit": run}), "quality": {"N": images} | quality}, card)


def card(record: dict) -> str:
    """The model card, from what was measured."""
    fids = quality_rows(record["quality"])
    return fill_card("pocket-uvit", record, t=record["training"]["u-vit"], fids=fids)
