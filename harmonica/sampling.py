"""The one sampling loop, and images from it: per-image seeds, shards, pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonica.executor import Planned, evaluate
from harmonica.plan import Plan


@dataclass
class Guided:
    """A backbone under classifier-free guidance, for fixed labels (n,): classes, or captions by number.

    Both halves run in one batch, conditional first. Guidance acts on the first `channels` latent channels, as the
    official DiT code does (three of four); the rest comes from the conditional half. A scale of 1 runs no second half.
    What depends on the labels alone is computed here, once.
    """

    backbone: torch.nn.Module
    labels: Tensor
    cfg: float
    channels: int

    def __post_init__(self):
        both = self.labels
        if self.cfg != 1.0:
            both = torch.cat([self.labels, torch.full_like(self.labels, self.backbone.null_label)])
        self._condition = self.backbone.condition(both)

    def repeated(self, times: int) -> "Guided":
        """The same for `times` copies of the batch, one after the other."""
        return Guided(self.backbone, self.labels.repeat(times), self.cfg, self.channels)

    def both(self, x: Tensor, t, policy: Callable) -> Tensor:
        """Outputs of both halves (2n, C_out, H, W) for latents x (n, C, H, W) at timestep `t`; (n, …) at cfg 1.

        What a sampler remembers in further channels of x is left out. The guided channels are equal in both halves, the
        others are each half's own, as in the official code.
        """
        x = x[:, : self.backbone.in_channels]
        if self.cfg == 1.0:
            return evaluate(self.backbone, x, t, self._condition, policy)
        out = evaluate(self.backbone, torch.cat([x, x]), t, self._condition, policy)
        cond, null = out[:, : self.channels].chunk(2)
        guided = torch.lerp(null, cond, self.cfg)
        return torch.cat([torch.cat([guided, guided]), out[:, self.channels :]], 1)

    def __call__(self, x: Tensor, t, policy: Callable) -> Tensor:
        """Output (n, C_out, H, W) for latents x (n, C, H, W) at timestep `t`."""
        return self.both(x, t, policy)[: len(x)]

    def together(self, x: Tensor, times: list[float], policy: Callable) -> list[Tensor]:
        """Outputs (n, C_out, H, W) at several timesteps in one batch; `policy` is for it."""
        many = self.repeated(len(times))
        t = torch.tensor(times, device=x.device).repeat_interleave(len(x)).repeat(1 if self.cfg == 1.0 else 2)
        return list(many(x.repeat(len(times), 1, 1, 1), t, policy).chunk(len(times)))


Seeds = Callable[[int], list[int]]  # of step s, one an image; a sampler that adds no noise does not ask


@dataclass(frozen=True)
class StepSeeds:
    """Seeds for the noise that a stochastic sampler adds, one an image and step, whatever the batch."""

    seed: int
    first: int
    count: int

    def __call__(self, s: int) -> list[int]:
        """Of images first … first+count−1 at step `s`."""
        keys = ([self.seed, self.first + j, s + 1] for j in range(self.count))
        return [int(np.random.SeedSequence(k).generate_state(1)[0]) for k in keys]


def denoise(
    x: Tensor, sampler, output: Callable[[Tensor, int], Tensor], start: int = 0, seeds: Seeds | None = None
) -> Tensor:
    """Run the sampler from step `start` to the end; `output(x, s)` is the model's output at step s."""
    for s in range(start, sampler.steps):
        x = sampler.step(s, output(x, s), x, seeds)
    return x


@dataclass(frozen=True)
class WithPriorNoise:
    """A sampler that adds `share` of the starting noise (n, C, H, W) after each step from a time under 500 (Faster
    Diffusion); a sampler of several evaluations a step does so after the last of them."""

    sampler: Any
    share: float
    noise: Tensor

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)

    def step(self, s: int, output: Tensor, x: Tensor, seeds: Seeds | None = None) -> Tensor:
        first = s + 1 - self.sampler.stages  # the evaluation where this step began
        x = self.sampler.step(s, output, x, seeds)
        if (s + 1) % self.sampler.stages == 0 and self.sampler.timesteps[first] < 500:
            x[:, : self.noise.shape[1]] += self.share * self.noise
        return x


def with_prior_noise(sampler, plan: Plan, noise: Tensor):
    """The sampler as the plan wants it: most want no noise added."""
    share = plan.origin.prior_noise
    return WithPriorNoise(sampler, share, noise) if share else sampler


def sample(model: Guided, sampler, policy, x: Tensor, seeds: Seeds | None = None) -> Tensor:
    """Latents (n, C, H, W) from noise `x` under `policy` (Plain or Planned), which is checked afterwards.

    `seeds(s)` gives a seed an image for the noise of step s (StepSeeds); only a stochastic sampler needs it.
    """
    if isinstance(policy, Planned):
        sampler = with_prior_noise(sampler, policy.plan, x)
    ready: dict[int, Tensor] = {}  # outputs of steps to come that ran in one batch

    def output(x: Tensor, s: int) -> Tensor:
        if s in ready:
            return ready.pop(s)
        group = policy.group(s) if isinstance(policy, Planned) else range(s, s + 1)
        if len(group) == 1:
            return model(x, sampler.timesteps[s], policy.at(s))
        times = [sampler.timesteps[k] for k in group]
        ready.update(
            zip(group, model.together(x, times, policy.together(group, 1 if model.cfg == 1.0 else 2)), strict=True)
        )
        return ready.pop(s)

    with torch.inference_mode():
        end = denoise(sampler.begin(x), sampler, output, seeds=seeds)
    policy.finish()
    return end[:, : x.shape[1]]


def noise_and_labels(
    seed: int, first: int, count: int, shape: tuple[int, ...], classes: int, in_order: bool = False
) -> tuple[Tensor, Tensor]:
    """Starting noise (count, *shape) and labels (count,) of images first … first+count−1.

    Labels are drawn uniformly, or with `in_order` taken one after the other, from the first again after the last. Image
    k has a generator of its own, so it is the same whatever the shard or batch it is drawn in.
    """
    noise, labels = torch.empty(count, *shape), torch.empty(count, dtype=torch.long)
    for j in range(count):
        rng = np.random.default_rng([seed, first + j])  # torch's own generator takes 32 bits of a seed
        labels[j] = (first + j) % classes if in_order else int(rng.integers(classes))
        noise[j] = torch.from_numpy(rng.standard_normal(shape, np.float32))
    return noise, labels


def begin(origin, backbone, channels: int, first: int, count: int) -> tuple[Guided, Tensor, Tensor]:
    """The guided model, starting noise and labels (count,) of images first … first+count−1 of a plan of this origin.

    Classes are drawn at random, as DiT's protocol has it; captions come in the order of their list.
    """
    noise, labels = noise_and_labels(
        origin.seed, first, count, backbone.latent_shape, backbone.classes, backbone.in_order
    )
    guided = Guided(backbone, labels.to(backbone.device), origin.cfg, channels)
    return guided, noise.to(backbone.device), labels


def to_pixels(decoded: Tensor) -> Tensor:
    """Decoder output (n, C, H, W) in [-1, 1] -> uint8 (n, H, W, C), clamp(127.5 x + 128) as DiT's protocol has it."""
    return (127.5 * decoded + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
