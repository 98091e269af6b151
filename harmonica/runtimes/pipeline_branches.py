"""Where the branches of a stock diffusers transformer are: the attention and feed-forward modules of its blocks.

Blocks are found by diffusers' own names for their lists, and its registry says where a block returns its streams. A
block whose attention and MLP are not modules of their own, such as Flux' single-stream block, is one branch: what is
cached is what it adds to its streams, gate included.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS, _ATTENTION_CLASSES, _FEEDFORWARD_CLASSES
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch import Tensor, nn

from harmonica.utils import UserError

LISTS = (*_ALL_TRANSFORMER_BLOCK_IDENTIFIERS, "joint_transformer_blocks")
FEED_FORWARD = ("ff", "ff_context", "ffn", "mlp", "img_mlp", "txt_mlp", "feed_forward")
# blocks that diffusers' registry lacks: where (hidden_states, encoder_hidden_states) are in what they return
RETURNS = {"AuraFlowJointTransformerBlock": (1, 0)}
WHOLE = "block"  # the kind of a branch that is a whole block


@dataclass(frozen=True)
class Block:
    """A block with its branches, which have the indices `start` to `stop` − 1.

    Its streams are the arguments that it returns changed, by name: the image's tokens first, then, in double-stream
    blocks, those of the text. `returns` are their places in the tuple that it returns; None if they are not known.
    """

    name: str  # "transformer_blocks 3"
    module: Any
    start: int
    branches: tuple[str, ...]  # attributes with the branches' modules; empty if the block is one branch
    streams: tuple[str, ...]
    returns: tuple[int, ...] | None
    joins_skips: bool  # it takes the stream of an earlier block, too

    @property
    def stop(self) -> int:
        return self.start + max(1, len(self.branches))

    def taken(self, args: Sequence[Any], more: dict[str, Any]) -> tuple[Tensor, ...]:
        """The streams (B, N, D) among the arguments of a call."""
        names = _parameters(type(self.module))
        return tuple(more[s] if s in more else args[names.index(s)] for s in self.streams)

    def given(self, out: Any, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The streams in what a call returned; one that it does not return, as a last block may, is as before. Raises
        UserError if it is not known where they are."""
        if isinstance(out, Tensor):
            return (out, *before[1:])
        if self.returns is None:
            raise UserError(f"{type(self.module).__name__} returns {len(out)} values: which are its streams is unknown")
        found = (out[k] for k in self.returns)
        return tuple(b if x is None else x for x, b in zip(found, before, strict=True))

    def returned(self, streams: tuple[Tensor, ...], like: Any) -> Any:
        """What a call returns for these streams, in the form of an earlier call's `like`."""
        if isinstance(like, Tensor):
            return streams[0]
        out: list[Any] = [None] * len(like)
        for k, x in zip(self.returns or (), streams, strict=True):
            out[k] = x
        return tuple(out)


def unwrapped(module: Any) -> Any:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def transformer_of(pipe: Any) -> Any:
    """The transformer of a pipeline, without torch.compile's wrapper. Raises UserError if it has none, or two."""
    transformer = unwrapped(getattr(pipe, "transformer", None))
    if not isinstance(transformer, nn.Module):
        raise UserError(f"{type(pipe).__name__} has no transformer")
    if getattr(pipe, "transformer_2", None) is not None:
        raise UserError(f"{type(pipe).__name__} has two transformers, and a plan is for one")
    return transformer


def blocks_of(transformer: Any) -> tuple[Block, ...]:
    """The blocks of a transformer, in the order of their lists. Raises UserError if it has none."""
    out: list[Block] = []
    for name, blocks in transformer.named_children():
        if name not in LISTS or not isinstance(blocks, nn.ModuleList):
            continue
        for k, block in enumerate(map(unwrapped, blocks)):
            out.append(_block(f"{name} {k}", block, out[-1].stop if out else 0))
    if not out:
        raise UserError(f"{type(transformer).__name__} has no blocks in a list named {', '.join(sorted(LISTS))}")
    return tuple(out)


def _block(name: str, block: Any, start: int) -> Block:
    parts = {k: unwrapped(m) for k, m in block.named_children()}
    attention = [k for k, m in parts.items() if isinstance(m, _ATTENTION_CLASSES)]
    mlp = [k for k, m in parts.items() if k in FEED_FORWARD or isinstance(m, _FEEDFORWARD_CLASSES)]
    branches = tuple(k for k in parts if k in (*attention, *mlp)) if attention and mlp else ()
    takes = _parameters(type(block))
    hidden, encoder, returns = _form(block)
    streams = (hidden, encoder) if returns is not None and len(returns) == 2 else (hidden,)
    return Block(name, block, start, branches, streams, returns, "skip" in takes)


def _form(block: Any) -> tuple[str, str, tuple[int, ...] | None]:
    """The names of a block's stream arguments, and where it returns them."""
    try:
        about = TransformerBlockRegistry.get(type(block))
    except ValueError:
        own = RETURNS.get(type(block).__name__)
        return "hidden_states", "encoder_hidden_states", own
    second = about.return_encoder_hidden_states_index
    places = (about.return_hidden_states_index,) + (() if second is None else (second,))
    return about.hidden_states_argument_name, about.encoder_hidden_states_argument_name, places


def _parameters(cls: type) -> list[str]:
    """Names of the arguments of a class' `forward`."""
    return list(inspect.signature(cls.forward).parameters)[1:]  # type: ignore[attr-defined]


def first_tensor(args: Sequence[Any], more: dict[str, Any]) -> Tensor:
    """What a branch computes from, among the arguments of its call."""
    return next(x for x in (*args, *more.values()) if isinstance(x, Tensor))


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (B, …) of one branch or of the streams as one: the only one as it is, several flattened to (B, F)."""
    return parts[0] if len(parts) == 1 else torch.cat([p.flatten(1) for p in parts], 1)


def unpack(packed: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """The inverse of `pack`, for tensors of these shapes."""
    if len(shapes) == 1:
        return (packed,)
    parts = packed.split([shape[1:].numel() for shape in shapes], 1)
    return tuple(x.view(shape) for x, shape in zip(parts, shapes, strict=True))


@dataclass(frozen=True)
class Output:
    """The form of what a branch returns: a tensor, or a tuple of tensors and None."""

    shapes: tuple[torch.Size | None, ...]
    single: bool

    @staticmethod
    def of(out: Any) -> Output:
        parts = (out,) if isinstance(out, Tensor) else tuple(out)
        return Output(tuple(x if x is None else x.shape for x in parts), isinstance(out, Tensor))

    def pack(self, out: Any) -> Tensor:
        """The tensors of an output as one."""
        return pack([x for x in ((out,) if self.single else out) if x is not None])

    def unpack(self, packed: Tensor) -> Any:
        """The inverse of `pack`."""
        parts = iter(unpack(packed, [s for s in self.shapes if s is not None]))
        out = tuple(None if s is None else next(parts) for s in self.shapes)
        return out[0] if self.single else out
