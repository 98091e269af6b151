"""What the trajectories of a round start from, in parts that fit into memory. A part is a slice of the batch with its
own cache; the loss and λ are means over all parts, so any division trains the same router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harmonica.execution import Guided
from harmonica.execution.seeds import StepSeeds
from harmonica.samplers import Sampler, Seeds
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
    labels_from = task.backbone.conditioning.training
    labels = torch.randint(labels_from.start, labels_from.stop, (batch,), generator=g)
    noise = torch.randn(batch, *task.backbone.latent_shape, generator=g)
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


def random_seed(sampler: Sampler, g: torch.Generator) -> int | None:
    """The seed of a round's noise of a stochastic sampler. None for a deterministic one; `g` is not advanced then."""
    return int(torch.randint(2**31, (), generator=g)) if sampler.stochastic else None


def step_seeds(seed: int | None, first: int, stop: int) -> Seeds | None:
    """The seeds of images first … stop−1 of a round."""
    return None if seed is None else StepSeeds(seed, first, stop - first)
