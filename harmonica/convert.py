"""Weights under the original DiT repository's parameter names, as diffusers names."""

import re

from torch import Tensor

from harmonica.errors import UserError

_BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDER = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}


def original_to_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A DiT state dict (blocks.0.attn.qkv.weight …) with diffusers' names; embedders are copied into every block.

    The functions agree when the backbone uses `freq_shift=0`. Raises UserError for a name that is not DiT's.
    """
    depth = 1 + max((int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))), default=-1)
    if not depth:
        raise UserError("these are not the weights of an original DiT: no parameter is called blocks.0.…")
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, part = key.rpartition(".")
        block = re.match(r"blocks\.(\d+)\.(.+)", name)
        if key == "pos_embed":
            out["pos_embed.pos_embed"] = value
        elif name in _OUTER:
            out[f"{_OUTER[name]}.{part}"] = value
        elif name in _EMBEDDER:
            for i in range(depth):
                out[f"transformer_blocks.{i}.norm1.emb.{_EMBEDDER[name]}.{part}"] = value
        elif block and block[2] == "attn.qkv":
            for to, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"transformer_blocks.{block[1]}.attn1.to_{to}.{part}"] = piece
        elif block and block[2] in _BLOCK:
            out[f"transformer_blocks.{block[1]}.{_BLOCK[block[2]]}.{part}"] = value
        else:
            raise UserError(f"{key} is not a parameter of an original DiT")
    return out


def original_config(state: dict[str, Tensor], heads: int) -> dict:
    """The diffusers configuration of an original DiT; the number of heads is not in the weights."""
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    tokens = state["pos_embed"].shape[1]
    return dict(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=channels, patch_size=patch,
        num_layers=sum(k.endswith("attn.qkv.weight") for k in state), sample_size=round(tokens**0.5) * patch,
        out_channels=state["final_layer.linear.bias"].numel() // patch**2, norm_eps=1e-6,
        num_embeds_ada_norm=len(state["y_embedder.embedding_table.weight"]) - 1,
    )  # fmt: skip
