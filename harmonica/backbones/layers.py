"""Layers that the backbones share: embeddings, attention, residual sums, patches."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.utils.precision import half_attention


def frequencies(shift: bool = False, half: int = 128) -> Tensor:
    """Frequencies (half,) of the sine-cosine embedding of timesteps and sizes; diffusers' DiT shifts them by one."""
    return torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - shift))


def on_device(t: Tensor | float, device: torch.device) -> Tensor:
    """Timesteps (1,) or (B,) as a tensor. A number is filled in on the device: a copy would synchronise."""
    return t.to(device) if isinstance(t, Tensor) else torch.full((1,), float(t), device=device)


def wave(t: Tensor | float, frequencies: Tensor, like: Tensor) -> Tensor:
    """Cosines and sines of one number or of numbers (B,): (1 or B, 2·half), on the device and in the type of `like`."""
    angle = on_device(t, like.device).reshape(-1, 1).float() * frequencies
    return torch.cat([angle.cos(), angle.sin()], 1).to(like.dtype)


def to_tokens(latents: Tensor, patches: nn.Conv2d) -> Tensor:
    """Embedded patches (B, N, D) of latents (B, C, H, W), contiguous by token.

    Any other memory order would propagate through every residual sum. A convolution of channels-last latents gives this
    order directly; a later copy takes as long as three reused branches.
    """
    return patches(latents.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2).contiguous()


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention among tokens, from concatenated queries, keys and values (B, N, 3D): (B, N, D)."""
    B, N, D = qkv.shape
    q, k, v = (part.view(B, N, heads, -1).transpose(1, 2) for part in qkv.chunk(3, 2))
    return attention(q, k, v).transpose(1, 2).reshape(B, N, D // 3)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v of heads (B, heads, N, d), with a mask (B, 1, 1, L) of valid keys; in the precision of TF32
    by the kernels for float16, which are many times faster than those for float32."""
    if q.dtype == torch.float32 and half_attention(q):
        return F.scaled_dot_product_attention(q.half(), k.half(), v.half(), attn_mask=mask).float()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def unpatchify(x: Tensor, grid: int, patch: int) -> Tensor:
    """Tokens (B, grid², patch²·C), channels last in a patch, to (B, C, grid·patch, grid·patch)."""
    x = x.view(len(x), grid, grid, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, grid * patch, grid * patch)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form. On a CPU through x·σ(2u), since torch's tanh there takes four times as long as its σ."""
    return F.gelu(x, approximate="tanh") if x.is_cuda or torch.compiler.is_compiling() else _Gelu.apply(x)


class _Gelu(torch.autograd.Function):
    """In place, with torch's own fused derivative: autograd through the four operations takes twice the time of a
    matrix product of the MLP and keeps four times the activations."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        c = 2 * (2 / math.pi) ** 0.5
        u = torch.addcmul(x.new_tensor(c), x, x, value=0.044715 * c)
        return u.mul_(x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(gradient, *ctx.saved_tensors, approximate="tanh")


def mix(cached: Tensor, fresh: Tensor, ratio: Tensor) -> Tensor:
    """r·fresh + (1 − r)·cached of two outputs of a branch (B, N, D), for a ratio r () in [0, 1], float32.

    r is never rounded: bfloat16 would make the 0.67 % of 1 − σ(5) 0.78 %.
    """
    return _Mix.apply(cached, fresh, ratio)


class _Mix(torch.autograd.Function):
    """torch.lerp that saves the difference for its gradient: lerp's own derivative recomputes it, which takes
    5 % of a plain pass per training step."""

    @staticmethod
    def forward(ctx, cached: Tensor, fresh: Tensor, ratio: Tensor) -> Tensor:
        difference = fresh - cached
        ctx.save_for_backward(difference, ratio)
        return torch.addcmul(at_least_float32(cached), at_least_float32(difference), ratio).to(fresh.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        difference, ratio = ctx.saved_tensors
        of_cached, of_fresh, of_ratio = ctx.needs_input_grad
        return (
            (gradient * (1 - ratio)).to(gradient.dtype) if of_cached else None,
            (gradient * ratio).to(gradient.dtype) if of_fresh else None,
            torch.dot(*(at_least_float32(x).reshape(-1) for x in (gradient, difference))) if of_ratio else None,
        )


def at_least_float32(x: Tensor) -> Tensor:
    """A half-precision tensor in float32, another as it is."""
    return x.float() if x.dtype.itemsize < 4 else x


def add(x: Tensor, delta: Tensor, gate: Tensor | None) -> Tensor:
    """The stream (B, N, D) after a branch with output `delta`; `gate` (1 or B, 1, D) or None."""
    return x + delta if gate is None else torch.addcmul(x, gate, delta)


def add_run(x: Tensor, terms: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """The stream (B, N, D) after a run of branches with known outputs, each with its gate: `add` in one new tensor."""
    (first, gate), *more = terms
    out = add(x, first, gate)
    for delta, gate in more:
        out = out.add_(delta) if gate is None else out.addcmul_(gate, delta)
    return out


def sincos_position(width: int, grid: int, scale: float = 1) -> Tensor:
    """The fixed 2-d sine-cosine position embedding of DiT, (1, grid², width); the x axis comes first.

    `scale` divides the coordinates (PixArt's interpolation).
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angle = [p.reshape(-1, 1).double() / scale * omega for p in (x, y)]
    return torch.cat([f(a) for a in angle for f in (torch.sin, torch.cos)], 1)[None].float()


def in_precision(backbone, dtype: torch.dtype):
    """The backbone, weights cast to `dtype`. The frequencies of the timestep embedding stay float32: rounded, they
    would give another angle at t = 999."""
    frequencies = backbone.frequencies
    backbone.to(dtype).frequencies = frequencies
    return backbone
