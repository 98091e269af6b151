"""A small PixArt with random weights, and prompts for it."""

import torch
from diffusers import PixArtTransformer2DModel

from harmonica.backbones.pixart import PixArt

TINY_PIXART = dict(
    num_attention_heads=2, attention_head_dim=12, num_layers=2, in_channels=4, out_channels=8, sample_size=8,
    patch_size=2, cross_attention_dim=24, caption_channels=10, norm_type="ada_norm_single", norm_eps=1e-6,
)  # fmt: skip


def pair(**changes):
    """diffusers' model with random weights that are zero nowhere, and ours with the same."""
    torch.manual_seed(0)
    theirs = PixArtTransformer2DModel(**TINY_PIXART | changes).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.25)
    return theirs, PixArt(TINY_PIXART | changes, text_tokens=5).load_weights(theirs.state_dict())


def prompts(count: int):
    g = torch.Generator().manual_seed(1)
    mask = (torch.arange(5) < torch.randint(1, 6, (count, 1), generator=g)).long()
    return torch.randn(count, 5, 10, generator=g), mask
