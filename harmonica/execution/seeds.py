"""Randomness that depends only on the seed and an image's index, not on shard or batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.samplers import Sampler, Seeds


@dataclass(frozen=True)
class StepSeeds:
    """Seeds for the noise that a stochastic sampler adds, one per image and step, of images first … first+count−1."""

    seed: int
    first: int
    count: int

    def __call__(self, s: int) -> list[int]:
        """One 32-bit seed per image for step `s`."""
        keys = ([self.seed, self.first + j, s + 1] for j in range(self.count))
        return [int(np.random.SeedSequence(k).generate_state(1)[0]) for k in keys]


def random_seed(sampler: Sampler, g: torch.Generator) -> int | None:
    """The seed of the noise that a stochastic sampler adds. None for a deterministic one; `g` is not advanced then."""
    return int(torch.randint(2**31, (), generator=g)) if sampler.stochastic else None


def step_seeds(seed: int | None, first: int, stop: int) -> Seeds | None:
    """The seeds of images first … stop−1 of a batch."""
    return None if seed is None else StepSeeds(seed, first, stop - first)


def random_labels_and_noise(backbone: Backbone, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels (count,) of those for training, and noise (count, C, H, W), for trajectories that are learned from."""
    own = backbone.conditioning.training
    labels = torch.randint(own.start, own.stop, (count,), generator=g)
    return labels, torch.randn(count, *backbone.latent_shape, generator=g)


def noise_and_labels(
    seed: int, first: int, count: int, shape: tuple[int, ...], classes: int, in_order: bool = False
) -> tuple[Tensor, Tensor]:
    """Starting noise (count, *shape) and labels (count,) of images first … first+count−1, each from its own generator.

    Labels are uniform over the classes, or with `in_order` image k has label k mod `classes`.
    """
    noise, labels = torch.empty(count, *shape), torch.empty(count, dtype=torch.long)
    for j in range(count):
        rng = np.random.default_rng([seed, first + j])  # torch's own generator takes 32 bits of a seed
        labels[j] = (first + j) % classes if in_order else int(rng.integers(classes))
        noise[j] = torch.from_numpy(rng.standard_normal(shape, np.float32))
    return noise, labels
