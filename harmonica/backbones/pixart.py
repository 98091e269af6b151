"""PixArt-α and Σ (Chen et al. 2023, 2024): adaLN-single blocks of three branches: self-attention,
cross-attention, MLP.

Reads diffusers' PixArtTransformer2DModel weights. Unlike in a DiT, shift, scale and gate are a table of each block
plus one product of the timestep, the same for all images; cross-attention comes between the other two without norm,
modulation or gate; the condition is a caption, not a label. Its keys and values depend on nothing else, so they are
computed once per trajectory (`condition`), not once per step as in diffusers. PixArt-α 1024 also takes resolution
and aspect ratio.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.backbones.base import Backbone, Captions
from harmonica.backbones.layers import (
    attention,
    frequencies,
    gelu_tanh,
    self_attention,
    sincos_position,
    to_tokens,
    unpatchify,
    wave,
)
from harmonica.plan.branches import BranchLayout, pixart_layout

SELF, CROSS, MLP = range(3)


@dataclass
class Text:
    """Captions as input of the cross-attentions."""

    keys_values: tuple[Tensor, ...]  # per block, (B, L, 2D)
    mask: Tensor  # valid tokens, bool (B, 1, 1, L)


@dataclass
class Context:
    """The context of all branches in one evaluation."""

    modulation: tuple[tuple[Tensor, ...], ...]  # of each block, shift, scale and gate twice, (1 or B, 1, D)
    final: tuple[Tensor, Tensor]  # shift, scale
    text: Text


class PixArt(Backbone):
    """`condition` once per trajectory; then `embed`, for every branch `delta` and `gate`, then `head`.

    A label is a caption's index; `conditioning`, set after loading, has the embeddings.
    """

    conditioning: Captions
    position: Tensor

    def __init__(self, config: dict, name: str = "PixArt", text_tokens: int = 120):
        super().__init__()
        self.config = config
        self.layout: BranchLayout = pixart_layout(name, config, text_tokens)
        self.heads, self.patch = config["num_attention_heads"], config["patch_size"]
        self.width = D = self.heads * config["attention_head_dim"]
        self.depth = config["num_layers"]
        self.in_channels, self.out_channels = config["in_channels"], config["out_channels"]
        self.side = config["sample_size"]
        self.grid = self.side // self.patch
        self.latent_shape = (self.in_channels, self.side, self.side)
        self.eps = config.get("norm_eps", 1e-6)
        self.sized = additional_conditions(config)
        self.patch_in = nn.Conv2d(self.in_channels, D, self.patch, self.patch)
        self.set_constants()
        self.time_in, self.time_out = nn.Linear(256, D), nn.Linear(D, D)
        if self.sized:
            self.size_in, self.size_out = nn.Linear(256, D // 3), nn.Linear(D // 3, D // 3)
            self.ratio_in, self.ratio_out = nn.Linear(256, D // 3), nn.Linear(D // 3, D // 3)
        self.modulation = nn.Linear(D, 6 * D)
        self.tables = nn.Parameter(torch.randn(self.depth, 6, D) / D**0.5)
        self.caption_in, self.caption_out = nn.Linear(config["caption_channels"], D), nn.Linear(D, D)
        self.qkv = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(self.depth))
        self.proj = nn.ModuleList(nn.Linear(D, D) for _ in range(self.depth))
        self.query = nn.ModuleList(nn.Linear(D, D) for _ in range(self.depth))
        self.key_value = nn.ModuleList(nn.Linear(D, 2 * D) for _ in range(self.depth))
        self.cross_proj = nn.ModuleList(nn.Linear(D, D) for _ in range(self.depth))
        self.up = nn.ModuleList(nn.Linear(D, 4 * D) for _ in range(self.depth))
        self.down = nn.ModuleList(nn.Linear(4 * D, D) for _ in range(self.depth))
        self.final_table = nn.Parameter(torch.randn(2, D) / D**0.5)
        self.out = nn.Linear(D, self.patch**2 * self.out_channels)

    def constants(self) -> dict[str, Tensor]:
        """Position embedding (1, N, D), and frequencies of the timestep embedding."""
        position = sincos_position(self.width, self.grid, position_scale(self.config))
        return {"position": position, "frequencies": frequencies()}

    def guided_channels(self, sampler: str) -> int:
        """Three of four with IDDPM, all with the other samplers, as in the official code."""
        return 3 if sampler == "iddpm" else 4

    def condition(self, labels: Tensor) -> Text:
        """Keys and values of all blocks for caption indices (B,)."""
        return self.read(*self.conditioning(labels))

    def select(self, condition: Text, rows: Tensor) -> Text:
        """The text of some of the captions."""
        return Text(tuple(kv[rows] for kv in condition.keys_values), condition.mask[rows])

    def read(self, embeddings: Tensor, mask: Tensor) -> Text:
        """The same for text embeddings (B, L, caption channels) and their mask (B, L), 1 for a token."""
        y = embeddings.to(self.device, self.dtype)
        y = self.caption_out(gelu_tanh(self.caption_in(y)))
        return Text(tuple(kv(y) for kv in self.key_value), mask.to(self.device).bool()[:, None, None])

    def embed(self, latents: Tensor, t: Tensor | float, text: Text) -> tuple[Tensor, Context]:
        """Latents (B, C, H, W), timestep 0..999 (one for all or (B,)), captions -> stream (B, N, D)."""
        time = self._time(latents, t)
        six = self.modulation(F.silu(time)).view(len(time), 1, 6, self.width)
        modulation = (self.tables + six).unsqueeze(3)  # (1 or B, depth, 6, 1, D)
        x = to_tokens(latents, self.patch_in) + self.position  # (B, N, D)
        return x, Context(tuple(block.unbind(1) for block in modulation.unbind(1)), self._final(time), text)

    def head_context(self, latents: Tensor, t: Tensor | float, text: Text) -> Context:
        return Context((), self._final(self._time(latents, t)), text)

    def _time(self, latents: Tensor, t: Tensor | float) -> Tensor:
        """The embedded timestep (1 or B, D), with resolution and aspect ratio if the model takes them."""
        time = self.time_out(F.silu(self.time_in(wave(t, self.frequencies, latents))))
        if self.sized:
            side = wave(8.0 * self.side, self.frequencies, latents)  # in pixels
            side = self.size_out(F.silu(self.size_in(side)))
            ratio = self.ratio_out(F.silu(self.ratio_in(wave(1.0, self.frequencies, latents))))
            time = time + torch.cat([side, side, ratio], 1)
        return time

    def _final(self, time: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (self.final_table + time[:, None]).chunk(2, 1)
        return shift, scale

    def normed(self, i: int, x: Tensor, ctx: Context) -> Tensor:
        """The stream (B, N, D) after the norm of branch `i`, shifted and scaled; a cross-attention has none."""
        block, kind = divmod(i, 3)
        if kind == CROSS:
            return x
        shift, scale = ctx.modulation[block][:2] if kind == SELF else ctx.modulation[block][3:5]
        return torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=self.eps), 1 + scale)

    def delta(self, i: int, x: Tensor, ctx: Context) -> Tensor:
        """Output of branch `i`, before its gate: (B, N, D). This is what a cache holds."""
        block, kind = divmod(i, 3)
        if kind == CROSS:
            return self._cross_attention(block, x, ctx.text)
        h = self.normed(i, x, ctx)
        if kind == MLP:
            return self.down[block](gelu_tanh(self.up[block](h)))
        return self.proj[block](self_attention(self.qkv[block](h), self.heads))

    def _cross_attention(self, block: int, x: Tensor, text: Text) -> Tensor:
        B, N, _ = x.shape
        q = self.query[block](x).view(B, N, self.heads, -1).transpose(1, 2)
        k, v = text.keys_values[block].unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(q, k, v, text.mask)
        return self.cross_proj[block](out.transpose(1, 2).reshape(B, N, -1))

    def gate(self, i: int, ctx: Context) -> Tensor | None:
        """The factor of the output of branch `i`, (1 or B, 1, D); None for a cross-attention."""
        block, kind = divmod(i, 3)
        return None if kind == CROSS else ctx.modulation[block][2 if kind == SELF else 5]

    def head(self, x: Tensor, ctx: Context) -> Tensor:
        """Stream (B, N, D) -> predicted noise and variance (B, 2C, H, W)."""
        shift, scale = ctx.final
        x = self.out(torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=1e-6), 1 + scale))
        return unpatchify(x, self.grid, self.patch)

    def load_weights(self, state: dict[str, Tensor]) -> Self:
        """Load the weights of a PixArtTransformer2DModel. Raises KeyError or RuntimeError if they do not fit."""
        own: dict[str, Tensor] = {"final_table": state["scale_shift_table"]}

        def take(name, *sources):
            for part in ("weight", "bias"):
                own[f"{name}.{part}"] = torch.cat([state[f"{s}.{part}"] for s in sources])

        embedder = "adaln_single.emb"
        pairs = {"time": f"{embedder}.timestep_embedder", "caption": "caption_projection"}
        if self.sized:
            pairs |= {"size": f"{embedder}.resolution_embedder", "ratio": f"{embedder}.aspect_ratio_embedder"}
        for name, source in pairs.items():
            take(f"{name}_in", f"{source}.linear_1")
            take(f"{name}_out", f"{source}.linear_2")
        take("modulation", "adaln_single.linear")
        take("patch_in", "pos_embed.proj")
        take("out", "proj_out")
        blocks = [f"transformer_blocks.{i}" for i in range(self.depth)]
        own["tables"] = torch.stack([state[f"{b}.scale_shift_table"] for b in blocks])
        for i, b in enumerate(blocks):
            take(f"qkv.{i}", f"{b}.attn1.to_q", f"{b}.attn1.to_k", f"{b}.attn1.to_v")
            take(f"proj.{i}", f"{b}.attn1.to_out.0")
            take(f"query.{i}", f"{b}.attn2.to_q")
            take(f"key_value.{i}", f"{b}.attn2.to_k", f"{b}.attn2.to_v")
            take(f"cross_proj.{i}", f"{b}.attn2.to_out.0")
            take(f"up.{i}", f"{b}.ff.net.0.proj")
            take(f"down.{i}", f"{b}.ff.net.2")
        self.load_state_dict(own, assign=True)
        self.set_constants()
        return self.eval().requires_grad_(False)


def additional_conditions(config: dict) -> bool:
    """Whether the model takes resolution and aspect ratio; diffusers' default: if sample_size is 128."""
    told = config.get("use_additional_conditions")
    return config["sample_size"] == 128 if told is None else told


def position_scale(config: dict) -> float:
    return config.get("interpolation_scale") or max(config["sample_size"] // 64, 1)
