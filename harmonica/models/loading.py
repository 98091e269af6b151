"""Loading weights: backbones, autoencoders, text encoders, on the GPU if there is one."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from harmonica.backbones.base import Backbone
from harmonica.backbones.dit import DiT
from harmonica.backbones.layers import in_precision
from harmonica.backbones.pixart import PixArt
from harmonica.backbones.uvit import UViT
from harmonica.models.embeddings import embedded
from harmonica.models.spec import Model
from harmonica.utils import UserError, precision
from harmonica.utils.devices import default_device


def new_backbone(model: Model, config: dict | None = None) -> Backbone:
    """The backbone of a model, of its own configuration or another, untrained."""
    config = config or model.config
    if model.kind == "pixart":
        return PixArt(config, model.title, model.text_tokens)
    return UViT(config, model.title) if model.kind == "uvit" else DiT(config, model.title, bool(model.original))


def load_backbone(model: Model, kept_in: str | None = None) -> Backbone:
    """The backbone with its weights, in the configured `precision` or the one given, ready for inference.

    Raises UserError if weights or embedded captions are missing or damaged.
    """
    config = json.loads(_require(model.folder("transformer") / "config.json", model.title).read_text())
    backbone = load_weights(new_backbone(model, config), model.folder("transformer"), model.title).to(default_device())
    if model.captions:
        backbone.conditioning = embedded(model)
    return in_precision(backbone, getattr(torch, kept_in or precision()))


def _require(path: Path, title: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; {title} needs it")
    return path


def load_weights(backbone: Backbone, folder: Path, title: str) -> Backbone:
    """Load a backbone's weights from a `transformer/` folder. Raises UserError if the file is missing or does not
    fit."""
    from safetensors.torch import load_file

    from harmonica.utils.torch_files import load_torch

    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file() and weights.with_suffix(".bin").is_file():  # older hub repositories
        weights = weights.with_suffix(".bin")
    _require(weights, title)
    try:
        return backbone.load_weights(load_torch(weights) if weights.suffix == ".bin" else load_file(weights))
    except (KeyError, RuntimeError) as e:
        raise UserError(f"{weights} does not contain the weights that its config.json describes ({e})") from None


def load_autoencoder(model: Model):
    """The AutoencoderKL in float32, ready for inference."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(model.folder("vae")).eval().requires_grad_(False).to(default_device())


def load_decoder(model: Model) -> Callable:
    """A function from latents (n, 4, h, w), unit variance, to images (n, C, H, W) in [-1, 1]."""
    return decoder(load_autoencoder(model))


def decoder(vae) -> Callable:
    """Decoding by an AutoencoderKL, see `load_decoder`."""
    return lambda latents: vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]


def load_text_encoder(model: Model) -> Callable:
    """A function from captions to embeddings (n, L, C) and masks (n, L), L = `text_tokens`.

    Captions are lower-cased and stripped, as diffusers' pipelines do with `clean_caption=False`.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(model.folder("tokenizer"))
    half = torch.float16 if model.hub else torch.float32
    encoder = T5EncoderModel.from_pretrained(model.folder("text_encoder"), dtype=half).eval().to(default_device())

    @torch.inference_mode()
    def encode(captions: list[str]):
        tokens = tokenizer(
            [c.lower().strip() for c in captions], padding="max_length", max_length=model.text_tokens,
            truncation=True, return_tensors="pt",
        ).to(encoder.device)  # fmt: skip
        return encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask

    return encode
