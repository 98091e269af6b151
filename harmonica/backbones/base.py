"""The interface of a backbone, and its conditioning: classes or caption indices."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from harmonica.plan import BranchLayout


@dataclass
class Conditioning:
    """What labels mean: classes, with the label after the last for "no class", or caption indices."""

    count: int  # labels that images are generated for: 0 … count − 1
    null: int  # the label of the unconditional half
    training: range  # labels that routers are trained with
    in_order: bool = False  # image k takes label k mod `count`, as in caption protocols; else labels are random

    @staticmethod
    def classes(count: int) -> Conditioning:
        return Conditioning(count, count, range(count))


class Captions(Conditioning):
    """Embedded captions: the first `count` of `total` are for images, the others for training; then the null
    prompt."""

    def __init__(self, count: int, total: int):
        super().__init__(count, total, range(count, total), in_order=True)

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, C) and masks (B, L) for labels (B,)."""
        raise NotImplementedError


class CaptionsInMemory(Captions):
    """Embeddings (n + 1, L, C) and masks (n + 1, L) of n captions, the null prompt last; all are for images."""

    def __init__(self, embeddings: Tensor, mask: Tensor):
        super().__init__(len(embeddings) - 1, len(embeddings) - 1)
        self.embeddings, self.mask = embeddings, mask

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels = labels.to(self.embeddings.device)
        return self.embeddings[labels], self.mask[labels]


class Backbone(nn.Module):
    """A transformer as a residual stream (B, N, D): `embed`, then `delta` and `gate` of every branch, then `head`."""

    layout: BranchLayout
    conditioning: Conditioning
    schedule: str = "linear"  # the noise schedule of training, by its name in samplers/schedules.py
    in_channels: int  # of the latents
    latent_shape: tuple[int, int, int]
    joins: frozenset[int] = frozenset()  # branches before which a long skip begins or ends
    frequencies: Tensor  # of the timestep embedding, float32 in every precision

    @property
    def device(self) -> torch.device:
        return self.frequencies.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; the branches compute in it."""
        return next(self.parameters()).dtype

    def constants(self) -> dict[str, Tensor]:
        """The buffers that no checkpoint has, by name: `frequencies`, and what else follows from the configuration."""
        raise NotImplementedError

    def set_constants(self) -> None:
        """Make the buffers, also of a model built without data (on the meta device), for which they are computed all
        the same: operations there take torch's compiler, whose import is most of a short process."""
        meta = torch.empty(0).is_meta
        with torch.device("cpu") if meta else nullcontext():
            constants = self.constants()
        for name, value in constants.items():
            self.register_buffer(name, value.to("meta") if meta else value, persistent=False)

    def load_weights(self, state: dict[str, Tensor]) -> Self:
        """Take over the tensors of a state dict of diffusers' class or the original, ready for inference. Raises
        KeyError, RuntimeError or UserError if it does not fit."""
        raise NotImplementedError

    def guided_channels(self, sampler: str) -> int:
        """Number of leading latent channels that guidance acts on, as in the model's official code."""
        raise NotImplementedError

    def condition(self, labels: Tensor) -> Any:
        """Inputs that depend only on labels (B,), once per trajectory."""
        raise NotImplementedError

    def select(self, condition: Any, rows: Tensor) -> Any:
        """The condition of some of its labels, by index (m,)."""
        return condition[rows]

    def embed(self, latents: Tensor, t: Tensor | float, condition: Any) -> tuple[Tensor, Any]:
        """Latents (B, C, H, W) and timestep (one for all or (B,)) -> stream (B, N, D), and the context of all
        branches."""
        raise NotImplementedError

    def head_context(self, latents: Tensor, t: Tensor | float, condition: Any) -> Any:
        """The context of the head alone, for a step that takes the stream after all branches from a cache. The
        latents (B, C, H, W) tell device and dtype."""
        raise NotImplementedError

    def join(self, i: int, x: Tensor, skips: dict[int, Tensor]) -> Tensor:
        """The stream (B, N, D) before branch `i` of `joins`: a starting skip is put in `skips`, an ending one
        joined."""
        raise NotImplementedError

    def normed(self, i: int, x: Tensor, ctx: Any) -> Tensor:
        """What branch `i` computes from: the stream (B, N, D) after its norm, shifted and scaled by the timestep."""
        raise NotImplementedError

    def delta(self, i: int, x: Tensor, ctx: Any) -> Tensor:
        """Output of branch `i`, before its gate: (B, N, D). This is what a cache holds."""
        raise NotImplementedError

    def gate(self, i: int, ctx: Any) -> Tensor | None:
        """The factor of the output of branch `i`, (1 or B, 1, D); None if the model has none."""
        raise NotImplementedError

    def head(self, x: Tensor, ctx: Any) -> Tensor:
        """Stream (B, N, D) -> the model's output (B, C_out, H, W)."""
        raise NotImplementedError


def rows_of(context: Any, rows: Tensor, count: int) -> Any:
    """A context, or condition, of some of its `count` sequences, by index (m,): every tensor in it that has one entry a
    sequence is reduced to these."""
    if isinstance(context, Tensor):
        return context[rows] if len(context) == count else context
    if isinstance(context, tuple | list):
        return type(context)(rows_of(x, rows, count) for x in context)
    if is_dataclass(context) and not isinstance(context, type):
        return replace(context, **{f.name: rows_of(getattr(context, f.name), rows, count) for f in fields(context)})
    return context
