"""Methods that make their plans by calling a stock diffusers pipeline."""

import numpy as np
import pytest
import torch
from tiny_pipelines import BUILDERS, STEPS, Tiny, tiny

import harmonica
from harmonica.experiments.pipelines import plan_on_pipeline
from harmonica.plan import COMPUTE, Plan, macs, macs_at
from harmonica.runtimes.pipeline_calls import Calls
from harmonica.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FAMILIES = ("flux", "wan", "sd3", "lumina2")  # whole blocks; two evaluations a step; one; two without contexts
METHODS = {
    "fora": {}, "taylorseer": {}, "hicache": {}, "smoothcache": {"images": 1}, "dpcache": {"images": 1},
    "magcache": {"images": 1, "retention": 0}, "procache": {"images": 1}, "fbcache": {"images": 1},
    "step_search": {"images": 1, "evaluations": 4}, "teacache": {"images": 1, "degree": 2}, "easycache": {"images": 1},
    "speca": {"images": 1, "warm_up": 1, "least": 1},
}  # fmt: skip


def calls(family: Tiny) -> Calls:
    return Calls.of(family.pipe, ["a", "b"], STEPS, arguments=family.arguments)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_find_plans_that_run(name, method, tmp_path):
    family = tiny(name)
    own = calls(family)
    plan_on_pipeline(own, method, METHODS[method] | {"target_cur": 50}).save(tmp_path / "p.safetensors")
    plan = Plan.load(tmp_path / "p.safetensors")
    with harmonica.cached(family.pipe, plan):  # which raises if it is not reused as planned
        assert family().isfinite().all()
    if plan.rule:
        shares = own.skipped(range(METHODS[method]["images"]), plan, stream=1).double().mean(1)
        assert plan.origin.notes["CUR"] == pytest.approx(
            100 * float(shares.mean()) * (plan.actions[-1] != COMPUTE).mean(), abs=0.1
        )
    else:
        budget = macs_at(50, STEPS, own.layout)
        assert plan.cur > 0 and macs(plan, own.layout) < 1.35 * budget


def test_a_search_judges_by_the_pipelines_own_latents():
    family = tiny("wan")
    own = calls(family)
    plan = plan_on_pipeline(own, "step_search", {"target_cur": 50, "images": 2, "evaluations": 10, "form": "branches"})
    found, full = own.latents(range(2), plan, stream=1), own.latents(range(2), stream=1)
    error = (found - full).square().flatten(1).mean(1) / 4
    assert plan.origin.notes["dB"] == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)
    uniform = plan_on_pipeline(own, "taylorseer", {"target_cur": 50, "order": 1})
    other = (own.latents(range(2), uniform, stream=1) - full).square().flatten(1).mean(1) / 4
    assert macs(plan, own.layout) <= 1.02 * macs(uniform, own.layout) or error.mean() < other.mean()


def test_images_have_their_own_seeds_and_prompts():
    own = calls(tiny("sd3"))
    both = own.latents([0, 1])
    assert torch.equal(own.latents([1])[0], both[1]) and not torch.equal(both[0], both[1])
    assert not torch.equal(own.latents([0], stream=1)[0], both[0]) and not torch.equal(
        own.latents([0], seed=1), both[:1]
    )


@pytest.mark.parametrize("method, settings, says", [
    ("harmonica", {}, "does not work on a pipeline|needs a model of this suite"),
    ("harmonica_forecast", {"images": 1, "evaluations": 1, "candidates": 1}, "needs a model of this suite"),
    ("step_search", {"grid": 12}, "leave out solver, grid and against"),
    ("step_search", {"against": "converged"}, "leave out solver, grid and against"),
    ("fbcache", {"blocks": 3}, r"F \+ B must be less than the 3 blocks"),
    ("fbcahe", {}, "did you mean .fbcache"),
])  # fmt: skip
def test_what_does_not_work_says_so(method, settings, says):
    with pytest.raises(UserError, match=says):
        plan_on_pipeline(calls(tiny("wan")), method, settings)


def test_calls_that_cannot_be():
    pipe = tiny("wan").pipe
    with pytest.raises(UserError, match="no prompts"):
        Calls.of(pipe, [], STEPS)
    with pytest.raises(UserError, match="no argument 'hight'"):
        Calls.of(pipe, ["a"], STEPS, arguments={"hight": 8})
    with pytest.raises(UserError, match="has two transformers"):
        other = BUILDERS["wan"]().pipe
        other.transformer_2 = other.transformer
        Calls.of(other, ["a"], STEPS)
    broken = BUILDERS["sana"]()
    broken.pipe.transformer.proj_out.bias.fill_(np.nan)
    with pytest.raises(UserError, match="not finite"):
        calls(broken).latents([0])
