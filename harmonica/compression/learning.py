"""A quantised linear layer that learns, in floats that stand for its integers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.compression.assemble import integers_of
from harmonica.compression.numerics import fake, from_grid, min_max, to_grid
from harmonica.utils import UserError


def finite(loss: Tensor, task) -> Tensor:
    """The loss (). Raises UserError if it is not finite: what comes after would be lost time."""
    if not torch.isfinite(loss):
        raise UserError(f"{task.name}: the loss is {loss.item()}: weights, latents or learning rate are wrong")
    return loss


class LoRALinear(nn.Module):
    """QALoRA: Q(W_q + B·A), with a frozen base W_q on the grid and adapters of low rank, quantised together.

    Its input has a learned scale and zero point per step, of which `step()` says the current one; they begin equal, at
    `start`. One parameter each, so that a step's update leaves those of the others alone.
    """

    base: Tensor
    weight_zero: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: nn.Linear, weight_bits: int, act_bits: int, rank: int, steps: int, start: tuple[Tensor, Tensor],
        step: Callable[[], int], g: torch.Generator,
    ):  # fmt: skip
        super().__init__()
        weight = layer.weight.detach().float()
        self.weight_bits, self.act_bits, self.step = weight_bits, act_bits, step
        scale, zero = min_max(weight, weight_bits)
        self.register_buffer("base", from_grid(to_grid(weight, scale, zero, weight_bits), scale, zero))
        self.register_buffer("weight_zero", zero)
        self.weight_scale = nn.Parameter(scale)
        bound = weight.shape[1] ** -0.5  # Kaiming's, as LoRA has it
        down = (2 * torch.rand(rank, weight.shape[1], generator=g) - 1) * bound
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.act_scale = nn.ParameterList(start[0].reshape(1).clone() for _ in range(steps))
        self.act_zero = nn.ParameterList(start[1].reshape(1).clone() for _ in range(steps))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def adapted(self) -> Tensor:
        """The weight before it is quantised."""
        return self.base + self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        s = self.step() if len(self.act_scale) > 1 else 0
        weight = fake(self.adapted(), self.weight_scale, self.weight_zero, self.weight_bits)
        x_grid = fake(x.float(), self.act_scale[s], self.act_zero[s], self.act_bits)
        return F.linear(x_grid.to(x.dtype), weight.to(x.dtype), self.bias)

    def merged(self) -> dict[str, Tensor]:
        """The tensors of the layer as it runs."""
        with torch.no_grad():
            own = integers_of(self.adapted(), self.weight_scale, self.weight_zero, self.weight_bits)
            scales = {k: torch.cat(list(getattr(self, k))).detach() for k in ("act_scale", "act_zero")}
        return own | scales
