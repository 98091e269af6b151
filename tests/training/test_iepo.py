"""Both forms of λ against the slow, obviously right ones: T full passes, nothing shared."""

import numpy as np
import pytest
import torch
from conftest import TINY_BRANCHES, protocol

from harmonica.execution import Guided, Plain, Planned, denoise
from harmonica.experiments import Experiment
from harmonica.methods import Task
from harmonica.plan import LIMIT, Origin, Plan
from harmonica.samplers.ddim import DDIM
from harmonica.training import iepo, sdt
from harmonica.training.logits import Logits
from harmonica.training.soft import Soft
from harmonica.training.starts import random_starts

T, TAU = 6, 0.3


@pytest.fixture
def parts(tiny):
    g = torch.Generator().manual_seed(1)
    logits = Logits(torch.randn(T, TINY_BRANCHES, generator=g), range(1, T), lr=0.1)
    noise = torch.randn(2, *tiny.latent_shape, generator=g)
    return tiny, DDIM(T), logits, noise, torch.tensor([1, 3])


@pytest.mark.parametrize("cfg", [1.0, 1.5])
@torch.no_grad()
def test_official(parts, cfg):
    tiny, sampler, logits, noise, labels = parts
    model = Guided(tiny, labels, cfg, 3)

    def image(last_on: int) -> torch.Tensor:
        soft, x = Soft(tiny), noise.repeat(1 if cfg == 1 else 2, 1, 1, 1)
        for s, t in enumerate(sampler.timesteps):
            policy = soft.row(logits.row(s, TAU) if s else None) if s <= last_on else Plain(tiny)
            x = sampler.step(s, model.both(x[:2], t, policy), x)
        return x

    images = [image(s) for s in range(T)]
    slow = torch.stack([torch.zeros(())] + [(b - a).square().mean() for a, b in zip(images, images[1:], strict=False)])
    fast = iepo.official(model, sampler, logits, Soft(tiny), TAU, noise)
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-9)
    assert (fast[1:] > 0).all()


def test_lambda_is_smallest_where_reuse_changes_the_image_most():
    """On the shipped model, from initial logits: per error of the predicted noise, early steps change the image more
    than late ones, but λ, which has that error in it, weights them least (docs/reading_results.md)."""
    e = Experiment.of("pocket-dit", "ddim", 20, 1.3, "harmonica", {})
    task = Task(e.protocol, Origin("harmonica"))
    g = torch.Generator().manual_seed(0)
    logits = Logits(torch.randn(20, len(task.layout.branches), generator=g), range(1, 20), lr=0.1)
    starts = random_starts(task, 4, 4, g)
    lam = iepo.measure(task, "official", starts, logits, TAU, [Soft(task.backbone)])[1:].numpy()
    errors: list[float] = []

    def visit(s, parts):
        errors.extend(float(p.error.detach()) for p in parts)

    sdt.walk(starts, task.sampler, logits, [Soft(task.backbone)], TAU, visit, stale=False)
    gain = lam / np.array(errors)
    assert errors[0] < 1e-3 * errors[-1]
    assert gain[:3].min() > 20 * gain[-5:].max()
    assert lam[:2].max() < 0.2 * lam[5:15].mean()


def test_lambda_follows_the_router():
    """λ of a step at which the router reuses nothing is a hundredth of what it was, so a later measurement sends reuse
    there, whatever it does to the image (docs/reading_results.md)."""
    task = Task(Experiment.of("pocket-dit", "ddim", 10, 1.3, "harmonica", {}).protocol, Origin("harmonica"))
    g = torch.Generator().manual_seed(0)
    initial = torch.randn(10, len(task.layout.branches), generator=g)
    starts = random_starts(task, 4, 4, g)

    def measured(initial: torch.Tensor) -> torch.Tensor:
        logits = Logits(initial, range(1, 10), lr=0.1)
        return iepo.measure(task, "official", starts, logits, TAU, [Soft(task.backbone)])

    computed = initial.clone()
    computed[4] = LIMIT
    before, after = measured(initial), measured(computed)
    assert after[4] < 0.01 * before[4] and (after[5:] > 0.1 * before[5:]).all()


@torch.no_grad()
def test_paper(parts):
    tiny, sampler, logits, noise, labels = parts
    model = Guided(tiny, labels, 1.5, 3)
    actions = (np.random.default_rng(0).random((T, TINY_BRANCHES)) < 0.4).astype(np.uint8)
    actions[0] = 0
    plan = Plan(actions, protocol(T))

    def image(a: np.ndarray) -> torch.Tensor:
        policy = Planned(tiny, Plan(a, plan.protocol))
        return denoise(sampler, noise, lambda x, s: model(x, sampler.timesteps[s], policy.at(s)))

    slow = [0.0]
    for s in range(1, T):
        off = actions.copy()
        off[s] = 0
        slow.append(float((image(actions) - image(off)).square().sum() / len(noise)))
    torch.testing.assert_close(iepo.paper(model, sampler, plan, noise), torch.tensor(slow), rtol=1e-4, atol=1e-9)
