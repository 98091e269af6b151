"""The quantised linear layer as it runs: integers, scales, and one product of int8 matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.backbones.layers import on_device
from harmonica.compression.numerics import bounds

FEWEST_ROWS = 16  # of a product on a GPU; torch._int_mm needs more
ALIGNED = 8  # both sides of a weight, on a GPU


class Clock:
    """Which of the T activation scales a step takes: those of the trained timestep that is closest to the step's."""

    def __init__(self, timesteps: Tensor):
        self.timesteps = timesteps  # float32 (T,)
        self.index = torch.zeros(1, dtype=torch.long, device=timesteps.device)

    def set(self, t: Tensor | float) -> None:
        """Begin an evaluation at timestep t, one for all or (B,). The index is a tensor, also of one number: so a
        compiled step reads it, and steps of different scales can share a graph."""
        at = on_device(t, self.timesteps.device).reshape(-1, 1).float()
        self.index = (at - self.timesteps).abs().argmin(1)


class QuantLinear(nn.Module):
    """A linear layer on integers: y = s_x s_w (q_x − z_x)(q_w − z_w)ᵀ + b.

    `tensors` has integers int8 (N, K), weight_scale float32 (N,), maybe weight_zero (N,), bias (N,), and balance
    float32 (K,), by which inputs are divided. Inputs have the static act_scale and act_zero float32 (1,) or, with a
    clock, (T,), one per step; without, each row has its own scale, symmetric, as torchao's dynamic int8. The product is
    torch._int_mm, which torchao's int8 tensors call, too; those pass no gradient to their input. Here it is that of the
    straight-through estimator, with the same output.
    """

    integers: Tensor
    weight_scale: Tensor
    weight_zero: Tensor | None
    act_scale: Tensor | None
    act_zero: Tensor | None
    balance: Tensor | None
    sums: Tensor

    def __init__(self, tensors: dict[str, Tensor], act_bits: int, clock: Clock | None = None):
        super().__init__()
        self.act_bits, self.clock, self.saturates = act_bits, clock, saturates()
        for name in ("integers", "weight_scale", "weight_zero", "act_scale", "act_zero", "balance"):
            self.register_buffer(name, tensors.get(name))
        bias = tensors.get("bias")
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        sums = self.integers.sum(1, dtype=torch.float32)
        if self.weight_zero is not None:
            sums -= self.integers.shape[1] * self.weight_zero.float()
        self.register_buffer("sums", sums, persistent=False)  # Σ_k (q_w − z_w), what a zero point of the input adds

    def dequantised(self) -> Tensor:
        """What the integers stand for, float32 (N, K)."""
        zero = 0 if self.weight_zero is None else self.weight_zero.float()[:, None]
        return (self.integers.float() - zero) * self.weight_scale[:, None]

    def grid(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of an input (…, K), broadcasting to (…, 1)."""
        if self.act_scale is None:
            half = (bounds(self.act_bits)[1] - bounds(self.act_bits)[0]) / 2
            return x.detach().abs().amax(-1, keepdim=True).float().div(half).clamp(
                min=torch.finfo(torch.float32).eps
            ), None
        scale, zero = self.act_scale, self.act_zero
        assert zero is not None
        if self.clock is not None and len(scale) > 1:
            shape = (-1, *(1,) * (x.dim() - 1))
            scale, zero = (v[self.clock.index].view(shape) for v in (scale, zero))
        return scale, zero

    def quantised(self, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """The integers of an input before they are clipped, as floats."""
        inverse = 1 / scale if self.balance is None else 1 / (scale * self.balance)
        return (x * inverse if zero is None else torch.addcmul(zero, x, inverse)).round_()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Through.apply(x, self)
        scale, zero = self.grid(x)
        return self.product(self.quantised(x, scale, zero), scale, zero, x.dtype)

    def product(self, q: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The layer's output from the integers of its input."""
        q = q.clamp_(*bounds(self.act_bits))
        y = integer_product(q, self.integers, self.saturates)
        if self.weight_zero is not None:
            y = torch.addcmul(y, q.sum(-1, keepdim=True), self.weight_zero.float(), value=-1)
        scale = scale * self.weight_scale
        if zero is not None:
            y = y - zero * self.sums
        y = y * scale if self.bias is None else torch.addcmul(self.bias, y, scale)
        return y.to(dtype)


class Float8Linear(nn.Module):
    """A linear layer whose product is made in float8, for inputs (…, K) of any precision: with scales of each row
    torchao and its kernels take and give bfloat16. The bias is added in the precision of the input."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        with torch.device("meta"):
            self.product = nn.Linear(linear.in_features, linear.out_features, bias=False)
        self.product.weight = nn.Parameter(linear.weight.bfloat16(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x.bfloat16()).to(x.dtype)
        return y if self.bias is None else y + self.bias


class _Through(torch.autograd.Function):
    """The integer product forwards, the straight-through estimator backwards."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: QuantLinear) -> Tensor:
        scale, zero = layer.grid(x)
        q = layer.quantised(x, scale, zero)
        low, high = bounds(layer.act_bits)
        ctx.save_for_backward((q >= low) & (q <= high))
        ctx.layer = layer
        return layer.product(q, scale, zero, x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inside,) = ctx.saved_tensors
        weight = ctx.layer.dequantised()
        if ctx.layer.balance is not None:
            weight = weight / ctx.layer.balance
        return torch.matmul(gradient, weight.to(gradient.dtype)) * inside, None


def integer_product(q: Tensor, integers: Tensor, saturates: bool) -> Tensor:
    """q · integersᵀ, float32 (…, N), of integers as floats (…, K) and int8 (N, K); by the integer kernel where there is
    a right one, else by float32, which is exact up to 2^24 and rounds above."""
    if runs_as_integers(q.numel() // q.shape[-1], integers, saturates):
        out = torch._int_mm(q.to(torch.int8).view(-1, q.shape[-1]), integers.t())
        return out.float().view(*q.shape[:-1], len(integers))
    return F.linear(q.float(), integers.float())


def runs_as_integers(rows: int, integers: Tensor, saturates: bool) -> bool:
    """Whether torch._int_mm takes so many rows of inputs by integers (N, K), and gives the right product.

    On a GPU it needs more than 16 rows, so that the condition of 16 images or halves stays float32, and sizes that 8
    divides. On a CPU without VNNI it adds pairs of products in 16 bits, which saturate without an error (`saturates`).
    """
    if integers.is_cuda:
        return rows > FEWEST_ROWS and all(size % ALIGNED == 0 for size in integers.shape)
    return integers.device.type == "cpu" and not saturates


def saturates() -> bool:
    """Whether products of int8 on this CPU may saturate: torchao's `should_reduce_range`, without importing it."""
    return not torch.cpu._is_vnni_supported()
