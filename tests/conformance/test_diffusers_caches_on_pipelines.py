"""Methods that diffusers has, on stock pipelines whose transformers have its caches: the same latents by its hooks and
by `harmonica.enable_cache`.

One prompt, since diffusers decides for a whole batch; Wan and Qwen-Image evaluate the guidance halves one after the
other, and both keep them apart.
"""

import re

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from tiny_pipelines import BUILDERS, STEPS, Tiny, tiny

import harmonica
from baselines.magcache import MagCache, skipped
from harmonica.experiments import Experiment
from harmonica.plan import FORECAST, SPAN_DELTA, Plan, Rule
from harmonica.runtimes.pipeline_branches import blocks_of
from harmonica.runtimes.pipeline_calls import Calls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CACHED = [name for name in BUILDERS if hasattr(tiny(name).pipe.transformer, "enable_cache")]


def calls(family: Tiny) -> Calls:
    return Calls.of(family.pipe, ["a prompt"], STEPS, arguments=family.arguments)


def branches(family: Tiny) -> int:
    return blocks_of(family.pipe.transformer)[-1].stop


def by_diffusers(family: Tiny, config) -> torch.Tensor:
    family.pipe.transformer.enable_cache(config)
    try:
        return family()
    finally:
        family.pipe.transformer.disable_cache()


def equal(family: Tiny, plan: Plan, config) -> bool:
    """Whether that is another result than the uncached run's."""
    before, expected = family(), by_diffusers(family, config)
    with harmonica.cached(family.pipe, plan):
        found = family()
    assert torch.equal(family(), before)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    return bool((found - before).abs().max() > 1e-3 * scale)


def test_some_are_there():
    assert {"flux", "wan", "qwen_image"} <= set(CACHED)


@pytest.mark.parametrize("name", [n for n in CACHED if n != "cogvideox"])  # whose halves are one batch
def test_first_block_cache(name):
    family = tiny(name)
    actions = np.zeros((STEPS, branches(family)), np.uint8)
    actions[1:, blocks_of(family.pipe.transformer)[0].stop :] = SPAN_DELTA
    own, others = calls(family), []
    for threshold in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8):
        plan = Plan(actions, own.protocol, rule=Rule("first branches", threshold))
        other = equal(family, plan, FirstBlockCacheConfig(threshold=threshold))
        others += [other and 0 < int(own.skipped([0], plan).sum()) < (STEPS - 1) * family.per_step]
    assert any(others)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", [n for n in CACHED if all(b.branches for b in blocks_of(tiny(n).pipe.transformer))])
def test_taylorseer(name, order):
    """Of every branch; with two steps at first, the schedules are the same for an interval of 2."""
    family = tiny(name)
    of_dit, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "taylorseer", {"interval": 2, "order": order}).make()
    actions = np.repeat(of_dit.actions[:, :1], branches(family), 1)
    assert set(actions[:, 0]) == {0, FORECAST}
    modules = dict(family.pipe.transformer.named_modules())
    cached = [m for b in blocks_of(family.pipe.transformer) for m in (getattr(b.module, n) for n in b.branches)]
    names = [re.escape(n) for n, m in modules.items() if any(m is c for c in cached)]
    config = TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, max_order=order,
                                   taylor_factors_dtype=torch.float32, cache_identifiers=names)  # fmt: skip
    assert equal(family, Plan(actions, calls(family).protocol, weights=of_dit.weights), config)


@pytest.mark.parametrize("name", CACHED)
def test_magcache(name):
    family, own = tiny(name), MagCache()
    ratios = np.array([1.0, 0.98, 1.03, 0.97, 1.02, 0.99])
    skip = skipped(ratios, 0.04, own.most, int(own.retention * STEPS + 0.5))
    actions = np.zeros((STEPS, branches(family)), np.uint8)
    actions[skip] = SPAN_DELTA
    assert 0 < len(skip) < STEPS - 1
    config = MagCacheConfig(threshold=0.04, num_inference_steps=STEPS, mag_ratios=torch.tensor(ratios))
    assert equal(family, Plan(actions, calls(family).protocol), config)
