"""Methods that diffusers has, against its own hooks on its own DiT: the same latents.

diffusers decides for a whole batch, so one image without guidance is run; in a float64 model, as decisions are compared
with thresholds.
"""

import copy

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_BRANCHES, protocol
from diffusers import DiTTransformer2DModel, FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.models.cache_utils import CacheMixin

from baselines.magcache import MagCache, skipped
from baselines.taylorseer import TaylorSeer
from harmonica.backbones.dit import DiT
from harmonica.execution import Ruled, Run, denoise
from harmonica.methods import Task
from harmonica.plan import SPAN_DELTA, Origin, Plan, Rule
from harmonica.samplers import make_sampler

STEPS = 12


class WithCache(DiTTransformer2DModel, CacheMixin):
    """diffusers' DiT with the interface of its caches, which that class lacks."""


@pytest.fixture(scope="module")
def both(tiny_diffusers):
    """diffusers' model and ours, in float64."""
    model = copy.deepcopy(tiny_diffusers).double()
    model.__class__ = WithCache
    own = DiT(TINY, "tiny").load_weights(tiny_diffusers.state_dict()).double()
    return model, own


@pytest.fixture
def hooked(both):
    """diffusers' model under a configuration of a cache, as a function of latents and timestep."""
    model = both[0]

    def under(config):
        model.enable_cache(config)
        return model

    yield under
    if model.is_cache_enabled:
        model.disable_cache()


def start():
    g = torch.Generator().manual_seed(2)
    return torch.randn(1, 4, 4, 4, generator=g, dtype=torch.float64), torch.tensor([1])


def by_diffusers(model) -> torch.Tensor:
    noise, label = start()
    sampler = make_sampler("ddim", STEPS)

    def output(latents, s):
        with model.cache_context("cond"):
            return model(latents, torch.tensor([sampler.timesteps[s]]), label).sample

    with torch.no_grad():
        return denoise(sampler, sampler.begin(noise), output)


def by_us(model, plan: Plan) -> tuple[torch.Tensor, Ruled | None]:
    noise, label = start()
    policy = Ruled(model, plan) if plan.rule else None
    return Run(model, plan, label, policy)(noise), policy


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def equal(both, found, expected) -> None:
    """But for diffusers' embeddings in float32, and far from the uncached run."""
    full = by_us(both[1], Plan(np.zeros((STEPS, TINY_BRANCHES), np.uint8), protocol(STEPS, cfg=1.0)))[0]
    assert gap(found, expected) < 3e-5 and gap(full, expected) > 1e-3


def test_without_a_cache(both):
    plan = Plan(np.zeros((STEPS, TINY_BRANCHES), np.uint8), protocol(STEPS, cfg=1.0))
    assert gap(by_us(both[1], plan)[0], by_diffusers(both[0])) < 3e-5


@pytest.mark.parametrize("threshold", [0.9, 1.1, 1.4])
def test_first_block_cache(both, hooked, threshold):
    actions = np.zeros((STEPS, TINY_BRANCHES), np.uint8)
    actions[1:, 2:] = SPAN_DELTA
    plan = Plan(actions, protocol(STEPS, cfg=1.0), rule=Rule("first branches", threshold))
    found, policy = by_us(both[1], plan)
    assert 0 < policy.skipped.sum() < STEPS - 1
    equal(both, found, by_diffusers(hooked(FirstBlockCacheConfig(threshold=threshold))))


@pytest.mark.parametrize(("order", "interval"), [(1, 2), (2, 2), (3, 2)])
def test_taylorseer(both, hooked, order, interval, monkeypatch):
    """With two steps at first, the schedules are the same for an interval of 2."""
    monkeypatch.setattr(Task, "layout", both[1].layout)
    plan = TaylorSeer(interval=interval, order=order).make(Task(protocol(STEPS, cfg=1.0), Origin("test")))
    config = TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=2, max_order=order, taylor_factors_dtype=torch.float64,
        cache_identifiers=[r"transformer_blocks\.\d+\.attn1", r"transformer_blocks\.\d+\.ff"],
    )  # fmt: skip
    equal(both, by_us(both[1], plan)[0], by_diffusers(hooked(config)))


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.6])
def test_magcache(both, hooked, threshold):
    ratios = np.array([1.0, 0.98, 1.03, 1.1, 0.9, 0.97, 1.02, 1.05, 0.99, 0.93, 0.88, 1.01])
    own = MagCache()
    skip = skipped(ratios, threshold, own.most, int(own.retention * STEPS + 0.5))
    actions = np.zeros((STEPS, TINY_BRANCHES), np.uint8)
    actions[skip] = SPAN_DELTA
    config = MagCacheConfig(threshold=threshold, num_inference_steps=STEPS, mag_ratios=torch.tensor(ratios))
    assert 0 < len(skip) < STEPS - 2
    equal(both, by_us(both[1], Plan(actions, protocol(STEPS, cfg=1.0)))[0], by_diffusers(hooked(config)))
