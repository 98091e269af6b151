"""U-ViT (Bao et al. 2023, arXiv 2209.12152): time and label are tokens, long skips join the first half to the second.

Parameters have the original's names (in_blocks.0.attn.qkv.weight …), so that its checkpoints load as they are. Block i
of `depth` + 1 has branches 2i (attention) and 2i + 1 (MLP): in-blocks, the middle block, out-blocks. The output of
in-block i is joined to the stream before block depth − i by that block's `skip_linear`, which belongs to no branch.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.backbones.base import Backbone, Conditioning
from harmonica.backbones.layers import frequencies, self_attention, to_tokens, unpatchify, wave
from harmonica.plan.branches import BranchLayout, uvit_layout


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self_attention(self.qkv(x), self.heads))


class MLP(nn.Module):
    def __init__(self, width: int, ratio: float):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, int(ratio * width)), nn.Linear(int(ratio * width), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: dict, skip: bool):
        super().__init__()
        D = config["embed_dim"]
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = Attention(D, config["num_heads"], config["qkv_bias"])
        self.mlp = MLP(D, config["mlp_ratio"])
        if skip:
            self.skip_linear = nn.Linear(2 * D, D)


class UViT(Backbone):
    """The backbone: `embed`, then for every branch `delta` and `gate`, `join` where a long skip begins or ends, `head`.

    `config` has the original's keys: img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, qkv_bias,
    num_classes (the last is "no label"). Variants with a time MLP or a final convolution are not supported.
    """

    schedule = "scaled_linear"

    def __init__(self, config: dict, name: str = "U-ViT"):
        super().__init__()
        self.config = config
        self.layout: BranchLayout = uvit_layout(name, config)
        self.width, self.patch, self.in_channels = config["embed_dim"], config["patch_size"], config["in_chans"]
        self.depth, self.conditioning = config["depth"], Conditioning.classes(config["num_classes"] - 1)
        self.grid = config["img_size"] // self.patch
        self.latent_shape = (self.in_channels, config["img_size"], config["img_size"])
        self.joins = frozenset(at for skip in self.layout.skips for at in skip)
        self.extras = self.layout.condition_tokens  # before the patches: label, time
        half, D = self.depth // 2, self.width
        self.patch_embed = PatchEmbed(self.in_channels, D, self.patch)
        self.label_emb = nn.Embedding(config["num_classes"], D)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + self.grid**2, D))
        self.in_blocks = nn.ModuleList(Block(config, False) for _ in range(half))
        self.mid_block = Block(config, False)
        self.out_blocks = nn.ModuleList(Block(config, True) for _ in range(half))
        self.blocks = [*self.in_blocks, self.mid_block, *self.out_blocks]
        self.norm = nn.LayerNorm(D)
        self.decoder_pred = nn.Linear(D, self.patch**2 * self.in_channels)
        self.set_constants()

    def constants(self) -> dict[str, Tensor]:
        """Frequencies of the timestep embedding."""
        return {"frequencies": frequencies(half=self.width // 2)}

    def guided_channels(self, sampler: str) -> int:
        """All, as in the official code."""
        return self.in_channels

    def condition(self, labels: Tensor) -> Tensor:
        """Embeddings (B, D) of labels (B,)."""
        return self.label_emb(labels)

    def embed(self, latents: Tensor, t: Tensor | float, labels: Tensor) -> tuple[Tensor, None]:
        """Latents (B, C, H, W), timestep in (0, 1000] (one for all or (B,)), embedded labels (B, D) -> stream
        (B, 2 + N, D); there is no other context."""
        patches = to_tokens(latents, self.patch_embed.proj)
        time = wave(t, self.frequencies, latents).expand(len(latents), -1)
        tokens = torch.stack([labels, time], 1) + self.pos_embed[:, : self.extras]
        return torch.cat([tokens, patches + self.pos_embed[:, self.extras :]], 1), None

    def head_context(self, latents: Tensor, t: Tensor | float, labels: Tensor) -> None:
        """None: the head takes the stream alone."""

    def join(self, i: int, x: Tensor, skips: dict[int, Tensor]) -> Tensor:
        """The stream before branch `i`, where a long skip begins (it is put in `skips`) or ends."""
        block = i // 2
        if block <= self.depth // 2:
            skips[i] = x
            return x
        source = 2 * (self.depth - block + 1)
        return self.out_blocks[block - self.depth // 2 - 1].skip_linear(torch.cat([x, skips[source]], -1))

    def normed(self, i: int, x: Tensor, ctx: None) -> Tensor:
        """The stream (B, 2 + N, D) after the norm of branch `i`."""
        block = self.blocks[i // 2]
        return block.norm2(x) if i % 2 else block.norm1(x)

    def delta(self, i: int, x: Tensor, ctx: None) -> Tensor:
        """Output of branch `i`: (B, 2 + N, D)."""
        block, h = self.blocks[i // 2], self.normed(i, x, ctx)
        return block.mlp(h) if i % 2 else block.attn(h)

    def gate(self, i: int, ctx: None) -> None:
        """None: outputs are added unscaled."""

    def head(self, x: Tensor, ctx: None) -> Tensor:
        """Stream (B, 2 + N, D) -> predicted noise (B, C, H, W)."""
        return unpatchify(self.decoder_pred(self.norm(x[:, self.extras :])), self.grid, self.patch)

    def load_weights(self, state: dict[str, Tensor]) -> Self:
        """Load a state dict of the original."""
        self.load_state_dict(state, assign=True)
        self.set_constants()
        return self.eval().requires_grad_(False)
