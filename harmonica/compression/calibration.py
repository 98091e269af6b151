"""What compressors read off the uncompressed model: its trajectories, and the inputs of its layers on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonica.execution import Guided, Plain
from harmonica.execution.seeds import random_labels_and_noise, random_seed, step_seeds

ROWS = 64  # of a layer's input that are kept of one evaluation


@dataclass(frozen=True)
class Step:
    """A step of a trajectory: its index and timestep, latents (n, C, H, W), labels (n,), and the guided output
    (n, C_out, H, W) of the uncompressed model there."""

    s: int
    t: float
    latents: Tensor
    labels: Tensor
    output: Tensor


def trajectory(task, images: int, g: torch.Generator) -> Iterator[Step]:
    """The steps of a trajectory of the uncompressed model from random noise, with random labels of those for training;
    it goes on with the model's own output."""
    backbone, sampler = task.backbone, task.sampler
    labels, noise = (x.to(backbone.device) for x in random_labels_and_noise(backbone, images, g))
    seeds = step_seeds(random_seed(sampler, g), 0, images)
    with torch.no_grad():
        model, state = Guided.by(task.protocol, backbone, labels), sampler.begin(noise)
    for s, t in enumerate(sampler.timesteps):
        latents = sampler.latents(state)
        with torch.no_grad():  # not across `yield`, where the caller trains
            output = model(latents, t, Plain(backbone))
        yield Step(s, t, latents, labels, output)
        with torch.no_grad():
            state = sampler.step(s, output, state, seeds)


def noise_of(task, output: Tensor) -> Tensor:
    """The channels of an output that are the predicted noise."""
    return output[:, : task.backbone.in_channels]


class Inputs:
    """Inputs of layers while it is open, by name: of each evaluation a sample of rows (≤ ROWS, K), and the largest
    magnitude of every channel over the tokens of each image and half, (B, K)."""

    def __init__(self, layers: dict[str, nn.Module]):
        self.rows: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.largest: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._layers, self._hooks = layers, list[Any]()
        self._g = torch.Generator().manual_seed(0)

    def __enter__(self) -> Inputs:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_pre_hook(self._keep(name)))
        return self

    def __exit__(self, *about) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str):
        def keep(layer, args):
            x = args[0].detach()
            rows = x.reshape(-1, x.shape[-1])
            if len(rows) > ROWS:
                rows = rows[torch.randperm(len(rows), generator=self._g)[:ROWS].to(rows.device)]
            self.rows[name].append(rows.float())
            self.largest[name].append(x.abs().flatten(1, -2).amax(1).float() if x.dim() > 2 else x.abs().float())

        return keep


def inputs_of(task, layers: dict[str, nn.Module], trajectories: int, images: int, every: int = 1) -> Inputs:
    """Inputs of layers of the uncompressed model along trajectories, at every so many steps."""
    g = torch.Generator().manual_seed(task.seed + 1)
    found = Inputs(layers)
    for _ in range(trajectories):
        steps = trajectory(task, images, g)
        for s in range(task.protocol.steps):
            if s % every == every // 2 or s == 0:  # the first also reads the condition
                with found:
                    if next(steps, None) is None:
                        break
            elif next(steps, None) is None:
                break
    return found
