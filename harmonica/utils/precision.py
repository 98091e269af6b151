"""Precision of the branches. Samplers, losses, logits, λ and the metrics are float32 or better everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from harmonica.utils.errors import unknown

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")  # tf32: float32 weights, rounded in products on a GPU


def check_precision(name: str) -> str:
    """The name itself. Raises UserError for an unknown precision."""
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return name


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of the weights. Raises UserError for an unknown precision."""
    import torch

    return getattr(torch, "float32" if check_precision(precision) == "tf32" else precision)


def itemsize_of(precision: str) -> int:
    """Bytes of a weight or value. Raises UserError for an unknown precision."""
    return 4 if check_precision(precision) in ("float32", "tf32") else 2


_tf32 = ContextVar("tf32", default=False)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Within this context, float32 products, convolutions and attention on a GPU are exact if the precision is
    "float32", else round their factors to ten bits: those of the branches, or of an autoencoder beside branches in half
    precision. A CPU always computes float32."""
    import torch

    backends = (torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv"))  # noqa: B009  (unknown to its types)
    before, rounds = [b.fp32_precision for b in backends], precision != "float32"
    for b in backends:
        b.fp32_precision = "tf32" if rounds else "ieee"
    token = _tf32.set(rounds)
    try:
        yield
    finally:
        _tf32.reset(token)
        for b, value in zip(backends, before, strict=True):
            b.fp32_precision = value


def half_attention(x: torch.Tensor) -> bool:
    """Whether attention of these float32 tensors may round its factors to TF32's ten bits; float16 has as many, and
    torch's float32 attention has no fast kernel."""
    return _tf32.get() and x.is_cuda
