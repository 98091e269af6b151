"""Models at their true shape with random weights: for smoke tests, benchmarks and estimates."""

import torch

from harmonica.backbones.base import Backbone, CaptionsInMemory
from harmonica.models.loading import new_backbone
from harmonica.models.spec import Model
from harmonica.utils.devices import default_device


def build_backbone(model: Model, depth: int | None = None) -> Backbone:
    """The backbone with random weights, with `depth` blocks, by default all."""
    config = model.config | {"depth" if model.kind == "uvit" else "num_layers": depth or model.depth}
    return new_backbone(model, config)


def build_autoencoder(model: Model):
    """The autoencoder of a hub model with random weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(**dict(model.vae_config), sample_size=model.resolution).eval().requires_grad_(False)


def random_captions(tokens: int, channels: int) -> CaptionsInMemory:
    """One prompt of random embeddings at full length, and a null prompt."""
    mask = torch.ones(2, tokens, dtype=torch.long)
    mask[1, 1:] = 0
    return CaptionsInMemory(torch.randn(2, tokens, channels), mask)


def random_model(model: Model, depth: int | None = None) -> Backbone:
    """The backbone with random weights and prompts, ready for inference on the GPU if there is one."""
    backbone = build_backbone(model, depth).to(default_device()).eval().requires_grad_(False)
    if model.captions:
        backbone.conditioning = random_captions(model.text_tokens, model.config["caption_channels"])
    return backbone


def weight_bytes(model: Model) -> int:
    """Bytes of the backbone's weights in float32."""
    with torch.device("meta"):
        return 4 * sum(p.numel() for p in build_backbone(model).parameters())
