"""Original DiT checkpoints (facebookresearch/DiT parameter names) and diffusers `transformer/` folders, both ways; and
original U-ViT checkpoints, whose names are kept."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from harmonica.backbones.dit import DiT
from harmonica.backbones.layers import sincos_position
from harmonica.backbones.uvit import UViT
from harmonica.models.state_dicts import brief, check_finite, read_state
from harmonica.utils import UserError, read_json, write_atomic
from harmonica.utils.torch_files import save_torch

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

    They are equivalent if the backbone is `original`. Raises UserError for a name that is not DiT's.
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


def diffusers_to_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `original_to_diffusers`: one embedder, q, k and v in one matrix.

    The fixed position embedding is kept if `state` has it; diffusers does not store it. Raises UserError for a name
    that is not diffusers', and for blocks whose embedders differ, which the original cannot hold.
    """
    blocks = {to: name for name, to in _BLOCK.items()}
    outer = {to: name for name, to in _OUTER.items()}
    embedder = {to: name for name, to in _EMBEDDER.items()}
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, part = key.rpartition(".")
        block = re.match(r"transformer_blocks\.(\d+)\.(.+)", name)
        number, inner = (block[1], block[2]) if block else ("", "")
        if key == "pos_embed.pos_embed":
            out["pos_embed"] = value
        elif name in outer:
            out[f"{outer[name]}.{part}"] = value
        elif inner.removeprefix("norm1.emb.") in embedder:
            kept = out.setdefault(f"{embedder[inner.removeprefix('norm1.emb.')]}.{part}", value)
            if not torch.equal(kept, value):
                raise UserError(f"{key} differs from that of the first block: an original DiT has one embedder")
        elif inner == "attn1.to_q":
            parts = [state[f"transformer_blocks.{number}.attn1.to_{x}.{part}"] for x in "qkv"]
            out[f"blocks.{number}.attn.qkv.{part}"] = torch.cat(parts)
        elif inner in blocks:
            out[f"blocks.{number}.{blocks[inner]}.{part}"] = value
        elif inner not in ("attn1.to_k", "attn1.to_v"):
            raise UserError(f"{key} is not a parameter of diffusers' DiTTransformer2DModel")
    return out


def to_diffusers_folder(source: str | Path, folder: str | Path, heads: int | None = None) -> dict:
    """Write an original checkpoint as a diffusers `transformer/` folder; returns its configuration.

    `heads` is not in the weights; the default is that of the published sizes. Raises UserError if the file is not a
    DiT, or a number of heads that does not divide its width.
    """
    state = read_state(source)
    try:
        width = len(state["x_embedder.proj.bias"])
        heads = heads or width // (72 if width == 1152 else 64)
        if heads < 1 or width % heads:
            raise UserError(f"a width of {width} cannot be divided among {heads} heads")
        config = original_config(state, heads)
        renamed = original_to_diffusers(state)
        DiT(config, original=True).load_weights(renamed)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, ZeroDivisionError) as e:
        raise UserError(f"{source} does not hold the weights of a DiT ({brief(e)})") from None
    check_finite(renamed.items(), source)
    renamed = {k: v.clone().contiguous() for k, v in renamed.items()}
    write_atomic(Path(folder) / "diffusion_pytorch_model.safetensors", save(renamed, {"format": "pt"}))
    record = {"_class_name": "DiTTransformer2DModel"} | config
    write_atomic(Path(folder) / "config.json", json.dumps(record, indent=2) + "\n")
    return config


def to_uvit_folder(source: str | Path, folder: str | Path, config: dict) -> None:
    """Write an original U-ViT checkpoint as a `transformer/` folder, the names unchanged. Raises UserError for a file
    that is no U-ViT of this configuration."""
    state = read_state(source)
    try:
        with torch.device("meta"):
            model = UViT(config)
        model.load_state_dict(state, assign=True)
    except RuntimeError as e:
        raise UserError(f"{source} does not hold the weights of this U-ViT ({brief(e)})") from None
    check_finite(state.items(), source)
    state = {k: v.clone().contiguous() for k, v in state.items()}
    write_atomic(Path(folder) / "diffusion_pytorch_model.safetensors", save(state, {"format": "pt"}))
    write_atomic(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")


def to_original_file(folder: str | Path, path: str | Path) -> None:
    """Write a diffusers `transformer/` folder as an original checkpoint. Raises UserError if it does not fit."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json", "the configuration of a DiT")
        out = diffusers_to_original(read_state(folder))
        width = config["num_attention_heads"] * config["attention_head_dim"]
        out.setdefault("pos_embed", sincos_position(width, config["sample_size"] // config["patch_size"]))
    except (ArithmeticError, ValueError, LookupError, TypeError, RuntimeError) as e:
        raise UserError(f"{folder} is not a diffusers DiT folder ({type(e).__name__}: {e})") from None
    check_finite(out.items(), folder)
    save_torch(path, out)


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
