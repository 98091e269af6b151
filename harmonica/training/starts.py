"""What the trajectories of a round start from, in parts that fit into memory. A part is a slice of the batch with its
own cache; the loss and λ are means over all parts, so any division trains the same router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harmonica.execution import Guided
from harmonica.execution.seeds import random_labels_and_noise, random_seed, step_seeds
from harmonica.samplers import Seeds
from harmonica.training import distributed


@dataclass(frozen=True)
class Start:
    """A part of a round's images: guided model, noise (n, C, H, W), and the seeds of a stochastic sampler."""

    model: Guided
    noise: Tensor
    seeds: Seeds | None = None
    share: float = 1.0  # of this process's images


def bounds(batch: int, part: int) -> list[tuple[int, int]]:
    """(first, stop) of the parts of at most `part` images that this process takes of a global batch.

    Raises UserError unless the number of processes divides the batch.
    """
    first, stop = distributed.own_range(batch)
    count = -(-(stop - first) // part)
    edges = [first + (stop - first) * k // count for k in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def random_starts(task, batch: int, part: int, g: torch.Generator) -> list[Start]:
    """Random labels and noise of a global batch, this process's share of it in parts of at most `part` images."""
    labels, noise = random_labels_and_noise(task.backbone, batch, g)
    seed, own = random_seed(task.sampler, g), bounds(batch, part)
    total = own[-1][1] - own[0][0]
    return [
        Start(
            Guided.by(task.protocol, task.backbone, labels[a:b]),
            noise[a:b].to(task.backbone.device),
            step_seeds(seed, a, b),
            (b - a) / total,
        )
        for a, b in own
    ]
