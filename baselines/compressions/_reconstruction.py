"""Block reconstruction by AdaRound (Nagel et al. 2020, arXiv 2004.10568; BRECQ, Li et al. 2021, arXiv 2102.05426).

Every weight of a block is rounded down or up, as makes the block's output closest to that of the full model; inputs
come from the blocks before, which are quantised already. Constants as published with PTQ4DiT.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonica.backbones.base import Backbone
from harmonica.compression import CompressionTask, Layer
from harmonica.compression.calibration import Step, trajectory
from harmonica.compression.learning import finite
from harmonica.compression.linear import QuantLinear
from harmonica.compression.numerics import bounds, fake
from harmonica.compression.places import linear_of, replace
from harmonica.execution import Guided, Plain
from harmonica.execution.executor import run_branches

WEIGHT, SHARPNESS, WARM_UP = 0.01, (20.0, 2.0), 0.2  # of the term that decides roundings
ROUNDING_LR, SCALE_LR = 1e-3, 4e-5
EVALUATIONS = 8  # of a trajectory, that blocks are fitted on
IMAGES = 16  # of it


class AdaRound(nn.Module):
    """A linear layer whose weights are between the two nearest points of the grid, by a rectified sigmoid."""

    def __init__(self, layer: nn.Linear, parts: dict[str, Tensor], about: Layer):
        super().__init__()
        self.about, self.bias, self.balance = about, layer.bias, parts.get("balance")
        self.scale, self.zero = parts["weight_scale"][:, None], parts["weight_zero"].float()[:, None]
        exact = layer.weight.detach().float() / self.scale
        self.floor = exact.floor()
        share = (exact - self.floor).clamp(0.01, 0.99)
        self.rounding = nn.Parameter(torch.logit((share + 0.1) / 1.2))
        self.act_scale = nn.Parameter(parts["act_scale"].clone())
        self.act_zero = parts["act_zero"]

    def up(self) -> Tensor:
        """How far each weight is rounded up, in [0, 1]."""
        return (1.2 * self.rounding.sigmoid() - 0.1).clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        q = (self.floor + self.up() + self.zero).clamp(*bounds(self.about.weight_bits))
        x = x.float() if self.balance is None else x.float() / self.balance
        x = fake(x, self.act_scale, self.act_zero, self.about.act_bits)
        return F.linear(x, (q - self.zero) * self.scale, None if self.bias is None else self.bias.float())

    def undecided(self, sharpness: float) -> Tensor:
        """The term that is 0 when every weight is on the grid."""
        return (1 - (2 * self.up() - 1).abs().pow(sharpness)).sum()

    def decided(self) -> dict[str, Tensor]:
        """The integers and the scale of the input that were found."""
        with torch.no_grad():
            q = (self.floor + (self.rounding >= 0) + self.zero).clamp(*bounds(self.about.weight_bits))
        return {"integers": q.to(torch.int8), "act_scale": self.act_scale.detach()}


def reconstruct(
    task: CompressionTask,
    model: Backbone,
    parts: dict[str, dict[str, Tensor]],
    about: dict[str, Layer],
    iterations: int,
) -> dict[str, float]:
    """Reconstruct the blocks of `model` (balanced, in floats) one after the other; `parts`, the tensors of its
    quantised layers, are updated. Returns the relative squared error of the last block's output, before and after.
    Layers outside of blocks keep their rounding.
    """
    g = torch.Generator().manual_seed(task.seed + 2)
    every = max(1, task.protocol.steps // EVALUATIONS)
    steps = [step for step in trajectory(task, IMAGES, g) if step.s % every == 0]
    floats = {name: linear_of(model, name) for name, layer in about.items() if layer.scales}

    def as_integers(name: str) -> QuantLinear:
        bias = floats[name].bias
        return QuantLinear(parts[name] | ({} if bias is None else {"bias": bias}), about[name].act_bits)

    for name in floats:
        replace(model, name, as_integers(name))
    errors: dict[str, float] = {}
    for block in model.layout.blocks:
        with torch.no_grad():
            inputs = [_stream(model, task, step, block[0]) for step in steps]
            targets = [_stream(task.backbone, task, step, block[1])[0] for step in steps]
        called = _called(model, floats, block, inputs[0])
        learning = {name: AdaRound(floats[name], parts[name], about[name]) for name in called}
        errors["before"] = _error(model, block, inputs, targets)
        for name, layer in learning.items():
            replace(model, name, layer)
        _fit(task, model, block, inputs, targets, learning, iterations, g)
        for name, layer in learning.items():
            parts[name] |= layer.decided()
            replace(model, name, as_integers(name))
        errors["after"] = _error(model, block, inputs, targets)
    for name, module in floats.items():
        replace(model, name, module)
    return errors


def _stream(backbone: Backbone, task: CompressionTask, step: Step, stop: int) -> tuple:
    """The stream (B, N, D) before branch `stop` at a step, both guidance halves, with context and long skips."""
    guided = Guided.by(task.protocol, backbone, step.labels)
    latents = step.latents.repeat(guided.halves, 1, 1, 1).to(backbone.dtype)
    x, ctx = backbone.embed(latents, step.t, guided.condition)
    skips: dict[int, Tensor] = {}
    return _run(backbone, (0, stop), x, ctx, skips), ctx, skips


def _run(backbone: Backbone, block: tuple[int, int], x: Tensor, ctx, skips: dict[int, Tensor]) -> Tensor:
    return run_branches(backbone, block, x, ctx, Plain(backbone), skips)


def _called(model: Backbone, layers: dict[str, nn.Linear], block: tuple[int, int], given: tuple) -> list[str]:
    """The names of the layers that a block calls."""
    found: list[str] = []
    hooks = [model.get_submodule(n).register_forward_hook(lambda *a, n=n: found.append(n)) for n in layers]
    with torch.no_grad():
        _run(model, block, given[0], given[1], dict(given[2]))
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(found))


@torch.no_grad()
def _error(model: Backbone, block: tuple[int, int], inputs: list[tuple], targets: list[Tensor]) -> float:
    outputs = [_run(model, block, x, ctx, dict(skips)) for x, ctx, skips in inputs]
    error = sum(float((y - t).square().sum()) for y, t in zip(outputs, targets, strict=True))
    return error / sum(float(t.square().sum()) for t in targets)


def _fit(task, model, block, inputs, targets, learning: dict[str, AdaRound], iterations: int, g) -> None:
    """Find the roundings and input scales of a block."""
    layers = list(learning.values())
    optimiser = torch.optim.Adam([
        {"params": [layer.rounding for layer in layers], "lr": ROUNDING_LR},
        {"params": [layer.act_scale for layer in layers], "lr": SCALE_LR},
    ])  # fmt: skip
    first, last = SHARPNESS
    for k in range(iterations):
        at = int(torch.randint(len(inputs), (), generator=g))
        x, ctx, skips = inputs[at]
        loss = (_run(model, block, x, ctx, dict(skips)) - targets[at]).square().sum(-1).mean()
        done = (k / iterations - WARM_UP) / (1 - WARM_UP)
        if done >= 0:
            loss = loss + WEIGHT * sum(layer.undecided(last + (first - last) * (1 - done)) for layer in layers)
        optimiser.zero_grad(set_to_none=True)
        finite(loss, task).backward()
        optimiser.step()
