"""DiT (Peebles & Xie 2023): adaLN-zero blocks of two branches, attention and MLP.

Reads diffusers' DiTTransformer2DModel weights. Three things differ from running that class: q, k and v are one matrix
product; timestep and label are embedded once per step, not once per block; one product gives the gates of all
branches, and shift and scale are computed only with their branch.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.backbones.base import Backbone, Conditioning
from harmonica.backbones.layers import (
    frequencies,
    gelu_tanh,
    self_attention,
    sincos_position,
    to_tokens,
    unpatchify,
    wave,
)
from harmonica.plan.branches import BranchLayout, dit_layout
from harmonica.utils import UserError


@dataclass
class Context:
    """The context of all branches in one evaluation."""

    condition: Tensor  # silu(t + y), (B, D)
    gates: tuple[Tensor, ...]  # per branch, (B, 1, D)


class DiT(Backbone):
    """The backbone: `embed`, then for every branch `delta` and `gate`, then `head`.

    `original` computes as the original code, for weights from it (the hub's DiT-XL/2, too): diffusers' class shifts the
    frequencies of the timestep embedding by one and by default has ε = 1e-5 in the LayerNorm of the MLPs.
    """

    position: Tensor

    def __init__(self, config: dict, name: str = "DiT", original: bool = False):
        super().__init__()
        self.config = config
        self.layout: BranchLayout = dit_layout(name, config)
        self.heads, self.patch = config["num_attention_heads"], config["patch_size"]
        self.width = D = self.heads * config["attention_head_dim"]
        self.depth, self.conditioning = config["num_layers"], Conditioning.classes(config["num_embeds_ada_norm"])
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.grid = config["sample_size"] // self.patch
        self.latent_shape = (self.in_channels, config["sample_size"], config["sample_size"])
        self.eps = (1e-6, 1e-6 if original else config.get("norm_eps", 1e-5))  # of attention's norm, MLP's
        self.patch_in = nn.Conv2d(self.in_channels, D, self.patch, self.patch)
        self.time_in, self.time_out = nn.Linear(256, D), nn.Linear(D, D)
        self.labels = nn.Embedding(self.conditioning.count + 1, D)
        self.to_gates = nn.Linear(D, 2 * self.depth * D)
        self.modulation = nn.ModuleList(nn.Linear(D, 2 * D) for _ in range(2 * self.depth))  # shift, scale
        self.qkv = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(self.depth))
        self.proj = nn.ModuleList(nn.Linear(D, D) for _ in range(self.depth))
        self.up = nn.ModuleList(nn.Linear(D, 4 * D) for _ in range(self.depth))
        self.down = nn.ModuleList(nn.Linear(4 * D, D) for _ in range(self.depth))
        self.final_modulation = nn.Linear(D, 2 * D)
        self.out = nn.Linear(D, self.patch**2 * self.out_channels)
        self.original = original
        self.set_constants()

    def constants(self) -> dict[str, Tensor]:
        """Position embedding (1, N, D), and frequencies of the timestep embedding."""
        return {"position": sincos_position(self.width, self.grid), "frequencies": frequencies(not self.original)}

    def guided_channels(self, sampler: str) -> int:
        """Three of four: `forward_with_cfg` of the official code."""
        return 3

    def condition(self, labels: Tensor) -> Tensor:
        """Embeddings (B, D) of labels (B,)."""
        return self.labels(labels)

    def embed(self, latents: Tensor, t: Tensor | float, labels: Tensor) -> tuple[Tensor, Context]:
        """Latents (B, C, H, W), timestep 0..999 (one for all or (B,)), embedded labels (B, D) -> stream (B, N, D)."""
        condition = self._timed(latents, t, labels)
        weight, bias = (p.unflatten(0, (2 * self.depth, -1)) for p in self.to_gates.parameters())  # per branch
        gates = torch.baddbmm(bias[:, None], condition.expand(len(weight), -1, -1), weight.mT)[:, :, None].unbind()
        x = to_tokens(latents, self.patch_in) + self.position  # (B, N, D)
        return x, Context(condition, gates)

    def head_context(self, latents: Tensor, t: Tensor | float, labels: Tensor) -> Context:
        return Context(self._timed(latents, t, labels), ())

    def _timed(self, latents: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        time = self.time_out(F.silu(self.time_in(wave(t, self.frequencies, latents))))  # (1 or B, D)
        return F.silu(time + labels)

    def normed(self, i: int, x: Tensor, ctx: Context) -> Tensor:
        """The stream (B, N, D) after the norm of branch `i`, shifted and scaled."""
        shift, scale = self.modulation[i](ctx.condition)[:, None].chunk(2, 2)
        return torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=self.eps[i % 2]), 1 + scale)

    def delta(self, i: int, x: Tensor, ctx: Context) -> Tensor:
        """Output of branch `i`, before its gate: (B, N, D). This is what a cache holds."""
        block, is_mlp = divmod(i, 2)
        h = self.normed(i, x, ctx)
        if is_mlp:
            return self.down[block](gelu_tanh(self.up[block](h)))
        return self.proj[block](self_attention(self.qkv[block](h), self.heads))

    def gate(self, i: int, ctx: Context) -> Tensor:
        """The factor of the output of branch `i`, (B, 1, D)."""
        return ctx.gates[i]

    def head(self, x: Tensor, ctx: Context) -> Tensor:
        """Stream (B, N, D) -> predicted noise and variance (B, 2C, H, W)."""
        shift, scale = self.final_modulation(ctx.condition)[:, None].chunk(2, 2)
        x = self.out(torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=1e-6), 1 + scale))
        return unpatchify(x, self.grid, self.patch)

    def load_weights(self, state: dict[str, Tensor]) -> Self:
        """Load the weights of a DiTTransformer2DModel. Raises UserError if its blocks' embedders differ."""
        get, emb = state.__getitem__, "norm1.emb."
        copies = [k.split(emb)[1] for k in state if k.startswith(f"transformer_blocks.0.{emb}")]
        for i in range(1, self.depth):
            for k in copies:
                if not torch.equal(get(f"transformer_blocks.0.{emb}{k}"), get(f"transformer_blocks.{i}.{emb}{k}")):
                    raise UserError(f"block {i} has its own {k}: a DiT shares timestep and label embedders")
        own: dict[str, Tensor] = {}

        def take(name, *sources, rows=slice(None)):
            for part in ("weight", "bias"):
                own[f"{name}.{part}"] = torch.cat([get(f"{s}.{part}")[rows] for s in sources])

        first, D = "transformer_blocks.0.norm1.emb", self.width
        take("patch_in", "pos_embed.proj")
        take("time_in", f"{first}.timestep_embedder.linear_1")
        take("time_out", f"{first}.timestep_embedder.linear_2")
        own["labels.weight"] = get(f"{first}.class_embedder.embedding_table.weight")
        take("final_modulation", "proj_out_1")
        take("out", "proj_out_2")
        gates: dict[str, list[Tensor]] = {"weight": [], "bias": []}
        for i in range(self.depth):
            b = f"transformer_blocks.{i}"
            for part, parts in gates.items():
                six = get(f"{b}.norm1.linear.{part}")  # shift, scale, gate of attention, then of the MLP
                own[f"modulation.{2 * i}.{part}"], own[f"modulation.{2 * i + 1}.{part}"] = (
                    six[: 2 * D],
                    six[3 * D : 5 * D],
                )
                parts += [six[2 * D : 3 * D], six[5 * D :]]
            take(f"qkv.{i}", f"{b}.attn1.to_q", f"{b}.attn1.to_k", f"{b}.attn1.to_v")
            take(f"proj.{i}", f"{b}.attn1.to_out.0")
            take(f"up.{i}", f"{b}.ff.net.0.proj")
            take(f"down.{i}", f"{b}.ff.net.2")
        own |= {f"to_gates.{part}": torch.cat(parts) for part, parts in gates.items()}
        self.load_state_dict(own, assign=True)
        self.set_constants()
        if "pos_embed.pos_embed" in state:
            self.position = get("pos_embed.pos_embed")
        return self.eval().requires_grad_(False)
