"""The branches of a model and their cost, from its configuration alone (no torch, no weights)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class BranchLayout:
    """The branches of a backbone and their MACs for one image and one guidance half, at one step."""

    name: str
    branches: tuple[str, ...]  # "block 0 / attention", in execution order
    branch_macs: np.ndarray  # float64 (branches,): norm modulation and the branch itself
    other_macs: float  # embedding, gates, output head: paid at every step
    stream_elements: int  # of one branch output: tokens · width
    once_macs: float = 0.0  # work on the condition alone: done once per trajectory
    # long skips (i, j): the stream before branch i is joined before branch j
    skips: tuple[tuple[int, int], ...] = ()
    skip_macs: float = 0.0  # of one join
    condition_tokens: int = 0  # tokens of time and label, before the patches
    tokens: int = 0  # of the stream
    parameters: int = 0  # of the model
    condition_elements: int = 0  # computed once per trajectory from one label
    attention_macs: float = 0.0  # those of `branch_macs` that are products of two activations, of all branches
    stream_macs: float = 0.0  # those of `other_macs` for the stream and the branches alone: patches, gates
    output_elements: int = 0  # of the model's output; 0 if plans for it cannot forecast that

    @property
    def macs(self) -> float:
        """MACs of a full step."""
        return float(self.branch_macs.sum() + self.other_macs + len(self.skips) * self.skip_macs)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each branch ("attention", "mlp")."""
        return tuple(b.split(" / ")[1] for b in self.branches)

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) branch indices of each block."""
        owner = [b.split(" / ")[0] for b in self.branches]
        starts = [i for i in range(len(owner)) if i == 0 or owner[i] != owner[i - 1]]
        return tuple(zip(starts, starts[1:] + [len(owner)], strict=True))

    def to_json(self) -> dict:
        """What the costs of a plan depend on, as one JSON-able object."""
        return {
            "branches": list(self.branches), "branch_macs": self.branch_macs.tolist(), "other_macs": self.other_macs,
            "stream_elements": self.stream_elements, "tokens": self.tokens, "parameters": self.parameters,
        }  # fmt: skip

    @staticmethod
    def from_json(name: str, about: dict) -> "BranchLayout":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        macs = np.array(about["branch_macs"], np.float64)
        branches = tuple(str(b) for b in about["branches"])
        if macs.shape != (len(branches),):
            raise ValueError(f"{len(branches)} branches have {macs.shape} MACs")
        elements, tokens, parameters = (int(about[k]) for k in ("stream_elements", "tokens", "parameters"))
        return BranchLayout(name, branches, macs, float(about["other_macs"]), elements, tokens=tokens,
                            parameters=parameters)  # fmt: skip


def dit_layout(name: str, config: dict) -> BranchLayout:
    """DiT (Peebles & Xie 2023) from a diffusers DiTTransformer2DModel configuration.

    The sum for DiT-XL/2 at 256×256 is the 118.6 GMACs that the paper's table 4 counts.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, depth = config["patch_size"], config["num_layers"]
    tokens = (config["sample_size"] // patch) ** 2
    modulation = 2 * width * width  # shift and scale of one branch
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width + modulation
    mlp = 8 * tokens * width**2 + modulation
    out_channels = config.get("out_channels") or config["in_channels"]
    patch_weights = patch**2 * (config["in_channels"] + out_channels) * width
    weights = depth * (18 * width**2 + 15 * width)  # of a block: 12 of its products, 6 of its modulation
    other = (
        tokens * width * patch**2 * (config["in_channels"] + out_channels)
        + 256 * width + width**2  # timestep embedding
        + depth * 2 * width**2  # gates
        + 2 * width**2  # final modulation
    )  # fmt: skip
    return BranchLayout(
        name=name,
        branches=tuple(f"block {i} / {kind}" for i in range(depth) for kind in ("attention", "mlp")),
        branch_macs=np.array([attention, mlp] * depth, dtype=np.float64),
        other_macs=float(other),
        stream_elements=tokens * width,
        tokens=tokens,
        parameters=weights + patch_weights + (config["num_embeds_ada_norm"] + 257 + 3 * width) * width,
        condition_elements=width,
        attention_macs=float(depth * 2 * tokens**2 * width),
        stream_macs=float(tokens * width * patch**2 * config["in_channels"] + depth * 2 * width**2),
        output_elements=tokens * patch**2 * out_channels,
    )


def pixart_layout(name: str, config: dict, text_tokens: int) -> BranchLayout:
    """PixArt from a diffusers PixArtTransformer2DModel configuration, for captions of `text_tokens` (padding counts).

    adaLN-single costs the same for any number of images but counts per image here; keys and values of the captions
    are computed once per trajectory.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, depth = config["patch_size"], config["num_layers"]
    tokens = (config["sample_size"] // patch) ** 2
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    cross_attention = 2 * tokens * width**2 + 2 * tokens * text_tokens * width
    mlp = 8 * tokens * width**2
    other = (
        tokens * width * patch**2 * (config["in_channels"] + config["out_channels"])
        + 256 * width + 7 * width**2  # timestep embedding, modulation
    )  # fmt: skip
    once = text_tokens * (config["caption_channels"] * width + width**2 + 2 * depth * width**2)
    kinds = ("attention", "cross-attention", "mlp")
    patch_weights = patch**2 * (config["in_channels"] + config["out_channels"]) * width
    embedders = (256 + 7 * width + config["caption_channels"] + width) * width  # of time, modulation, captions
    return BranchLayout(
        name=name,
        branches=tuple(f"block {i} / {kind}" for i in range(depth) for kind in kinds),
        branch_macs=np.array([attention, cross_attention, mlp] * depth, dtype=np.float64),
        other_macs=float(other),
        stream_elements=tokens * width,
        once_macs=float(once),
        tokens=tokens,
        parameters=depth * (16 * width**2 + 20 * width) + patch_weights + embedders,
        condition_elements=2 * depth * text_tokens * width,
        attention_macs=float(depth * (2 * tokens**2 * width + 2 * tokens * text_tokens * width)),
        stream_macs=float(tokens * width * patch**2 * config["in_channels"] + 6 * width**2),
        output_elements=tokens * patch**2 * config["out_channels"],
    )


def uvit_layout(name: str, config: dict) -> BranchLayout:
    """U-ViT (Bao et al. 2023) from the original's configuration: `depth` + 1 blocks, time and label as tokens."""
    width, patch, depth = config["embed_dim"], config["patch_size"], config["depth"]
    patches = (config["img_size"] // patch) ** 2
    tokens = patches + 2
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    mlp = 2 * tokens * width * int(config["mlp_ratio"] * width)
    return BranchLayout(
        name=name,
        branches=tuple(f"block {i} / {kind}" for i in range(depth + 1) for kind in ("attention", "mlp")),
        branch_macs=np.array([attention, mlp] * (depth + 1), dtype=np.float64),
        other_macs=float(2 * patches * width * patch**2 * config["in_chans"]),
        stream_elements=tokens * width,
        skips=tuple((2 * i + 2, 2 * (depth - i)) for i in range(depth // 2)),
        skip_macs=float(2 * tokens * width**2),
        condition_tokens=2,
        tokens=tokens,
        parameters=(depth + 1) * (12 * width**2 + 9 * width) + depth // 2 * 2 * width**2 + 2 * tokens * width,
        condition_elements=width,
        attention_macs=float((depth + 1) * 2 * tokens**2 * width),
        stream_macs=float(patches * width * patch**2 * config["in_chans"]),
        output_elements=patches * patch**2 * config["in_chans"],
    )
