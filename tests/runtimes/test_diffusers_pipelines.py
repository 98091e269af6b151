"""Plans on unmodified diffusers pipelines: small random models, and the shipped ones."""

import copy
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from conftest import TINY, protocol, sample
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
)
from tiny_pixart import TINY_PIXART, pair, prompts

import harmonica
from harmonica.backbones.base import CaptionsInMemory
from harmonica.execution import Guided, Planned
from harmonica.execution.rules import Ruled
from harmonica.plan import (
    COMPUTE,
    FORECAST,
    FORECASTS,
    REUSE,
    SPAN_DELTA,
    SPAN_FORECAST,
    SPAN_OUTPUT,
    Plan,
    Rule,
    all_compute,
)
from harmonica.runtimes.pipelines import DiTPipeline
from harmonica.samplers import make_sampler
from harmonica.utils.errors import UserError
from harmonica.utils.files import POCKET, ROOT

STEPS = 4


def vae(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(latent_channels=channels, block_out_channels=(4,), norm_num_groups=2)


def plan(branches: int, kind: int = REUSE, first: int = 3, steps: int = STEPS, seed: int = 0, **about) -> Plan:
    """Reuses or forecasts anywhere, or a span from branch `first` on at every second step; a forecast one at the last
    two."""
    actions = np.zeros((steps, branches), np.uint8)
    start = 2 if kind in FORECASTS else 1
    if kind in (REUSE, FORECAST):
        actions[start:] = kind * np.random.default_rng(seed).integers(0, 2, (steps - start, branches))
    else:
        actions[start :: 3 - start, first:] = kind
    weights = np.tile(np.float32([1.5, -0.5]), (steps, 1, 1)) if kind in FORECASTS else None
    return Plan(actions, protocol(steps, **about), weights=weights)


TINY_PROTOCOL = {"model": "pocket-pixart", "sampler": "dpmsolver++", "cfg": 4.5}


@pytest.fixture(scope="module", params=[PixArtAlphaPipeline, PixArtSigmaPipeline])
def pixart(request):
    theirs, own = pair()
    scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear")
    pipe = request.param(None, None, vae(), theirs, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe, own


def run(pipe, steps: int = STEPS):
    """Latents of two prompts, guidance 4.5, from the same noise."""
    text, mask = prompts(2)
    nothing = torch.zeros_like(mask)
    nothing[:, 0] = 1
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=text, prompt_attention_mask=mask, guidance_scale=4.5,
        negative_prompt_embeds=torch.ones_like(text), negative_prompt_attention_mask=nothing, output_type="latent",
        num_inference_steps=steps, latents=torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        height=8, width=8, use_resolution_binning=False,
    ).images  # fmt: skip


def captions() -> CaptionsInMemory:
    """Those of `run` for our own loop: two, and the null prompt."""
    text, mask = prompts(2)
    nothing = torch.tensor([[1, 0, 0, 0, 0]])
    return CaptionsInMemory(torch.cat([text, torch.ones(1, 5, 10)]), torch.cat([mask, nothing]))


RULES = {
    "input": Rule("input", 1.5), "first branches": Rule("first branches", 1.0), "rate": Rule("rate", 4.0),
    "verified": Rule("verified", 0.3, order=1, parameters={"least": 1.0, "decay": 0.5, "floor": 0.01}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:allow=")
@pytest.mark.parametrize("measure", RULES)
def test_rules_decide_as_in_the_suite(pixart, measure):
    pipe, own = pixart
    own.conditioning = captions()
    blocks, actions = TINY_PIXART["num_layers"], np.zeros((STEPS, 3 * TINY_PIXART["num_layers"]), np.uint8)
    actions[1:, 3 * (measure == "first branches") : 3 * (blocks - (measure == "verified"))] = SPAN_DELTA
    p = Plan(actions, protocol(steps=STEPS, **TINY_PROTOCOL), rule=RULES[measure])
    with harmonica.cached(pipe, p, allow=["model"]):
        theirs = run(pipe)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    policy = Ruled(own, p)
    ours = sample(Guided(own, torch.arange(2), 4.5, 4), make_sampler("dpmsolver++", STEPS), policy, x)
    assert policy.skipped.any() and not policy.skipped.all()
    torch.testing.assert_close(theirs, ours, atol=1e-2, rtol=1e-2)


@pytest.mark.filterwarnings("ignore:allow=")
@pytest.mark.parametrize("kind", [COMPUTE, REUSE, SPAN_DELTA, SPAN_OUTPUT, FORECAST, SPAN_FORECAST])
def test_a_pixart_pipeline_gives_what_the_suite_gives(pixart, kind):
    pipe, own = pixart
    own.conditioning = captions()
    p = plan(3 * TINY_PIXART["num_layers"], kind, **TINY_PROTOCOL)
    with harmonica.cached(pipe, p, allow=["model"]):
        theirs = run(pipe)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = sample(Guided(own, torch.arange(2), 4.5, 4), make_sampler("dpmsolver++", STEPS), Planned(own, p), x)
    torch.testing.assert_close(theirs, ours, atol=1e-2, rtol=1e-2)
    if kind:
        assert (theirs - run(pipe)).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:allow=")
def test_plans_that_do_not_fit(pixart):
    pipe, _ = pixart
    with pytest.raises(UserError, match="6 in 2 blocks"):
        harmonica.enable_cache(pipe, plan(8, **TINY_PROTOCOL))
    actions = np.zeros((STEPS, 6), np.uint8)
    actions[1, 1:5] = SPAN_DELTA
    with pytest.raises(UserError, match="whole blocks"):
        harmonica.enable_cache(pipe, Plan(actions, protocol(STEPS, **TINY_PROTOCOL)))
    with pytest.raises(UserError, match="not pocket-pixart: num_layers 2, not 8"):
        harmonica.enable_cache(pipe, plan(6, **TINY_PROTOCOL))
    with pytest.raises(UserError, match="pocket-dit is a dit"):
        harmonica.enable_cache(pipe, plan(6, **TINY_PROTOCOL | {"model": "pocket-dit"}))
    with pytest.raises(UserError, match="unknown difference to allow 'modle'; did you mean 'model'"):
        harmonica.enable_cache(pipe, plan(6, **TINY_PROTOCOL), allow=["modle"])
    assert not harmonica.is_cache_enabled(pipe)


def other_scheduler(pipe, **settings):
    return type(pipe.scheduler).from_config(pipe.scheduler.config, **settings)


class Pocket:
    """A shipped pipeline, its plan, and how it is called."""

    def __init__(self, name: str, folder: str, sampler: str, cfg: float, what, per_block: int):
        self.pipe = harmonica.load_pipeline(POCKET / folder)
        self.pipe.set_progress_bar_config(disable=True)
        self.what, self.cfg, self.per_block = what, cfg, per_block
        self.about = {"model": name, "sampler": sampler, "cfg": cfg}
        self.plan = plan(8 * per_block, **self.about)
        self.uncached, _ = self(), self.enable()
        self.cached, _ = self(), self.disable()
        assert not torch.equal(self.uncached, self.cached)

    def enable(self, plan: Plan | None = None, **more):
        return harmonica.enable_cache(self.pipe, plan or self.plan, **more)

    def disable(self):
        return harmonica.disable_cache(self.pipe)

    def __call__(self, pipe=None, **more):
        given = {"num_inference_steps": STEPS, "guidance_scale": self.cfg, "output_type": "pt"} | more
        return (pipe or self.pipe)(self.what, generator=torch.Generator().manual_seed(0), **given).images

    @property
    def modules(self) -> list:
        return list(self.pipe.transformer.modules())


@pytest.fixture(scope="module")
def both():
    return {
        "dit": Pocket("pocket-dit", "fashion-mnist", "ddim", 1.3, [3, 7], 2),
        "pixart": Pocket("pocket-pixart", "noto-emoji", "dpmsolver++", 4.5, "a red heart", 3),
    }


@pytest.fixture(params=["dit", "pixart"])
def pocket(request, both):
    yield both[request.param]
    both[request.param].disable()


@pytest.fixture
def dit(both):
    yield both["dit"]
    both["dit"].disable()


def test_computing_everything_changes_no_bit(pocket, tmp_path):
    all_compute(protocol(STEPS, **pocket.about), pocket.plan.branches).save(tmp_path / "p.safetensors")
    assert harmonica.enable_cache(pocket.pipe, tmp_path / "p.safetensors") is pocket.pipe
    assert torch.equal(pocket(), pocket.uncached)


def test_a_disabled_cache_leaves_nothing(pocket):
    before, state = type(pocket.pipe), [dict(vars(m)) for m in pocket.modules]
    pocket.enable()
    assert harmonica.is_cache_enabled(pocket.pipe) and isinstance(pocket.pipe, before)
    assert torch.equal(pocket(), pocket.cached)
    assert pocket.disable() is pocket.pipe
    assert not harmonica.is_cache_enabled(pocket.pipe) and type(pocket.pipe) is before
    assert [dict(vars(m)).keys() for m in pocket.modules] == [s.keys() for s in state]
    assert torch.equal(pocket(), pocket.uncached)
    harmonica.disable_cache(pocket.pipe)  # again: nothing to do


def test_the_context_manager_restores_what_was(pocket):
    pocket.enable()
    other = plan(pocket.plan.branches, seed=1, **pocket.about)
    with pytest.raises(KeyError), harmonica.cached(pocket.pipe, other) as pipe:
        assert pipe is pocket.pipe and not torch.equal(pocket(), pocket.cached)
        raise KeyError
    assert torch.equal(pocket(), pocket.cached)
    pocket.disable()
    with harmonica.cached(pocket.pipe, pocket.plan):
        assert torch.equal(pocket(), pocket.cached)
    assert not harmonica.is_cache_enabled(pocket.pipe)


OFFLOADS = {  # what diffusers' offloading does to a transformer, with the CPU as its accelerator
    "model": lambda m: cpu_offload_with_hook(m, "cpu"),
    "sequential": lambda m: cpu_offload(m, "cpu", offload_buffers=bool(m._parameters)),
    "blocks": lambda m: [add_hook_to_module(b, AlignDevicesHook("cpu")) for b in m.transformer_blocks],
    "branches": lambda m: [add_hook_to_module(b.ff, AlignDevicesHook("cpu")) for b in m.transformer_blocks],
}


@pytest.mark.parametrize("first", ["offload", "cache"])
@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloading(both, kind, first):
    """Before or after the cache, in two calls, put on anew between them as `maybe_free_model_hooks` does."""
    pocket = both["pixart" if kind == "sequential" else "dit"]  # PixArt's blocks have parameters of their own
    transformer, own = pocket.pipe.transformer, [vars(m).get("forward") for m in pocket.modules]
    try:
        if first == "cache":
            pocket.enable()
        OFFLOADS[kind](transformer)
        if first == "offload":
            pocket.enable()
        assert torch.equal(pocket(), pocket.cached)
        remove_hook_from_module(transformer, recurse=True)
        assert torch.equal(pocket(), pocket.cached)
        OFFLOADS[kind](transformer)
        assert torch.equal(pocket(), pocket.cached) and torch.equal(pocket(), pocket.cached)
        pocket.disable()
        assert torch.equal(pocket(), pocket.uncached)
        assert any("_hf_hook" in vars(m) for m in pocket.modules)  # the user's offloading is still there
        assert not any("_diffusers_hook" in vars(m) for m in pocket.modules)
    finally:
        pocket.disable()
        remove_hook_from_module(transformer, recurse=True)
        for m, forward in zip(pocket.modules, own, strict=True):
            if forward is None:
                vars(m).pop("forward", None)
    assert torch.equal(pocket(), pocket.uncached)


def test_another_hook_is_left_in_place(dit):
    """One below the cache's, and one put above it, which is in its way when it is removed."""
    calls = {"below": 0, "above": 0}
    module = dit.pipe.transformer.transformer_blocks[0].ff

    def count(name):
        forward = module.forward

        def counted(*args, **more):
            calls[name] += 1
            return forward(*args, **more)

        module.forward = counted

    try:
        count("below")
        dit.enable()
        assert torch.equal(dit(), dit.cached)
        reused = STEPS - calls["below"]
        assert reused == (dit.plan.actions[:, 1] == REUSE).sum() > 0
        count("above")
        for _ in range(2):
            assert torch.equal(dit(), dit.cached)
        assert calls["above"] and calls["below"] == 3 * (STEPS - reused)
        dit.disable()
        calls.update(below=0, above=0)
        assert torch.equal(dit(), dit.uncached) and calls == {"below": STEPS, "above": STEPS}
    finally:
        dit.disable()
        del module.forward


@pytest.mark.filterwarnings("ignore:allow=")
@pytest.mark.parametrize("how", ["blocks", "repeated", "whole"])
def test_compiled_before_or_after(how, tiny_diffusers, monkeypatch):
    transformer = copy.deepcopy(tiny_diffusers)
    pipe = DiTPipeline(transformer, vae(), DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    p = plan(2 * TINY["num_layers"], cfg=4)

    def images():
        return pipe(
            [1, 3], num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images

    uncached = images()
    with harmonica.cached(pipe, p, allow=["model"]):
        expected = images()
    assert not torch.equal(uncached, expected)
    if how == "blocks":
        for i, block in enumerate(transformer.transformer_blocks):
            transformer.transformer_blocks[i] = torch.compile(block, backend="eager")
    elif how == "repeated":
        monkeypatch.setattr(type(transformer), "_repeated_blocks", ["BasicTransformerBlock"], raising=False)
        transformer.compile_repeated_blocks(backend="eager")
    else:
        pipe.transformer = torch.compile(transformer, backend="eager")
    torch.testing.assert_close(images(), uncached)  # compiled without the cache
    for _ in range(2):
        with harmonica.cached(pipe, p, allow=["model"]):
            torch.testing.assert_close(images(), expected)
            torch.testing.assert_close(images(), expected)
        torch.testing.assert_close(images(), uncached)


def test_two_pipelines_of_one_transformer(dit):
    """Each runs its own plan, or none."""
    other = type(dit.pipe)(**dit.pipe.components)
    other.set_progress_bar_config(disable=True)
    dit.enable()
    assert torch.equal(dit(other), dit.uncached) and torch.equal(dit(), dit.cached)
    second = plan(dit.plan.branches, seed=1, **dit.about)
    harmonica.enable_cache(other, second)
    theirs = dit(other)
    assert torch.equal(dit(), dit.cached) and torch.equal(dit(other), theirs) and not torch.equal(theirs, dit.cached)
    dit.disable()
    assert torch.equal(dit(other), theirs) and torch.equal(dit(), dit.uncached)
    harmonica.disable_cache(other)
    assert torch.equal(dit(other), dit.uncached)


def test_a_transformer_put_in_place_later(dit):
    own = dit.pipe.transformer
    dit.enable()
    try:
        dit.pipe.transformer = type(own).from_config(own.config)
        with pytest.raises(UserError, match=r"pipe.transformer was replaced after enable_cache"):
            dit()
    finally:
        dit.pipe.transformer = own
    assert torch.equal(dit(), dit.cached)
    dit.disable()
    assert torch.equal(dit(), dit.uncached)


@pytest.mark.parametrize("gone, says", [(("", "attn1", "ff"), "no block was called under the plan"),
                                        (("",), "a block or branch was called out of turn"),
                                        (("attn1", "ff"), "called the branches .. in place of 0 to 1")])  # fmt: skip
def test_a_cache_that_was_not_used_is_an_error(dit, gone, says):
    """Hooks that something takes away during a call; they are back in the next."""
    dit.enable()

    def take_away(*args):
        for block in dit.pipe.transformer.transformer_blocks:
            for name in gone:
                vars(block.get_submodule(name)).pop("forward", None)

    handle = dit.pipe.transformer.register_forward_pre_hook(take_away)
    try:
        with pytest.raises(UserError, match=says):
            dit()
    finally:
        handle.remove()
    assert torch.equal(dit(), dit.cached)
    dit.disable()
    assert torch.equal(dit(), dit.uncached)


def test_an_interrupted_call_does_not_spoil_the_next(pocket):
    pocket.enable()
    calls = []

    def stop(module, args, kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = pocket.pipe.transformer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with pytest.raises(KeyboardInterrupt):
            pocket()
    finally:
        handle.remove()
    assert torch.equal(pocket(), pocket.cached)
    pocket.disable()
    assert torch.equal(pocket(), pocket.uncached)


def test_a_callback_that_raises_or_calls_another_pipeline(both):
    own = both["pixart"]
    other = type(own.pipe)(**own.pipe.components | {"scheduler": other_scheduler(own.pipe)})
    other.set_progress_bar_config(disable=True)
    own.enable()
    harmonica.enable_cache(other, plan(24, seed=1, **own.about))
    theirs = own(other)

    def fail(step, t, latents):
        raise ZeroDivisionError

    inner = []
    with pytest.raises(ZeroDivisionError):
        own(callback=fail)
    assert torch.equal(own(callback=lambda *about: inner.append(own(other))), own.cached)
    assert len(inner) == STEPS and all(torch.equal(x, theirs) for x in inner)
    harmonica.disable_cache(other)
    with pytest.raises(UserError, match="more than 4 times in one call"):  # without a plan it cannot be told apart
        own(callback=lambda *about: own(other))
    with ThreadPoolExecutor(1) as another:  # but in a thread of its own it can
        images = own(callback=lambda *about: inner.append(another.submit(own, other).result()))
    assert torch.equal(images, own.cached) and all(torch.equal(x, own.uncached) for x in inner[STEPS:])
    own.disable()


def test_the_number_of_steps(pocket):
    pocket.enable()
    with pytest.raises(UserError, match="for 4 steps, but the pipeline runs 5: pass num_inference_steps=4"):
        pocket(num_inference_steps=5)
    assert torch.equal(pocket(), pocket.cached)


def test_the_guidance_scale(pocket):
    pocket.enable()
    with pytest.raises(UserError, match=r"guidance_scale=[14]\.[35], the call has 2 .*allow=\['guidance'\]"):
        pocket(guidance_scale=2)
    with pytest.raises(UserError, match="the call has 1 "):
        pocket(guidance_scale=1.0)
    pocket.enable(allow=["guidance"])
    with pytest.warns(UserWarning, match="the call has 2; the plan is run all the same"):
        images = pocket(guidance_scale=2)
    assert not torch.equal(images, pocket.cached)


def test_the_default_guidance_counts(dit):
    dit.enable()
    with pytest.raises(UserError, match=r"guidance_scale=1\.3, the call has 4 "):
        dit.pipe([3], num_inference_steps=STEPS)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"solver_order": 3}, "solver_order 3, not 2"),
        ({"algorithm_type": "sde-dpmsolver++"}, "algorithm_type sde-dpmsolver"),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule scaled_linear, not linear"),
        ({"timestep_spacing": "leading"}, "timestep_spacing leading, not linspace"),
        ({"prediction_type": "v_prediction"}, "prediction_type v_prediction, not epsilon"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas True, not False"),
    ],
)
def test_the_settings_of_the_scheduler(both, changes, says):
    own, before = both["pixart"], both["pixart"].pipe.scheduler
    try:
        own.enable()
        own.pipe.scheduler = other_scheduler(own.pipe, **changes)
        with pytest.raises(UserError, match=says):
            own()  # put in place after enable_cache
        own.disable()
        with pytest.raises(UserError, match=says):
            own.enable()
        assert not harmonica.is_cache_enabled(own.pipe)
    finally:
        own.pipe.scheduler = before
        own.disable()


def test_a_setting_counts_where_its_switch_is_on():
    from diffusers import DDIMScheduler as S

    from harmonica.runtimes.pipeline_protocol import in_effect

    assert "clip_sample_range" in in_effect(S().config) and "clip_sample_range" not in in_effect(
        S(clip_sample=False).config
    )
    flow = {"use_flow_sigmas": True, "flow_shift": 3.0}
    assert in_effect(flow) == flow and in_effect(flow | {"use_flow_sigmas": False}) == {"use_flow_sigmas": False}


def test_noise_between_steps_is_not_the_plans(dit):
    from harmonica.runtimes.pipeline_protocol import given_times

    assert given_times(plan(24, **dit.about), {"eta": 0.0}) == {}
    p = plan(24, **dit.about | {"sampler": "ddim"})
    assert given_times(p, {"eta": 1.0}) == {"scheduler": "the plan is for eta=0, and the call has 1"}
    made_with = p.with_origin(notes={"pipeline": {"call": {"eta": 1.0}}})
    assert given_times(made_with, {"eta": 1.0}) == {}
    assert given_times(made_with, {"eta": 0.0}) == {"scheduler": "the plan is for eta=1, and the call has 0"}


def test_quantised_weights_are_not_compared(dit):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    from harmonica.runtimes.pipeline_protocol import model_difference

    transformer = copy.deepcopy(dit.pipe.transformer)
    quantize_(transformer, Int8WeightOnlyConfig())
    assert model_difference(dit.plan, transformer) == {}


def test_other_weights_are_another_model(dit):
    """Up to half precision, and to what is not compared."""
    transformer = dit.pipe.transformer
    before = {k: x.clone() for k, x in transformer.state_dict().items()}
    try:
        dit.pipe.transformer.to(torch.bfloat16)
        dit.enable()
        dit.disable()
        dit.pipe.transformer.to(torch.float32)
        with torch.no_grad():
            for x in transformer.parameters():
                x.mul_(1.1)
        with pytest.raises(UserError, match="the transformer is not pocket-dit: its .* has other values"):
            dit.enable()
        with pytest.warns(UserWarning, match="has other values; the plan is run all the same"):
            dit.enable(allow=["model"])
    finally:
        dit.disable()
        transformer.load_state_dict(before)


def test_a_family_of_one_shape_is_told_by_its_pipeline():
    from harmonica.models import get_model
    from harmonica.runtimes.pipeline_protocol import model_difference

    model = get_model("pixart-alpha-512")
    transformer = type("PixArtTransformer2DModel", (), {"config": model.config})()
    p = plan(len(model.layout.branches), model="pixart-alpha-512", sampler="dpmsolver++", cfg=4.5)
    assert model_difference(p, transformer, "PixArtAlphaPipeline") == model_difference(p, transformer) == {}
    assert (
        "of a PixArtSigmaPipeline, not pixart-alpha-512"
        in model_difference(p, transformer, "PixArtSigmaPipeline")["model"]
    )


def test_a_pipeline_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is no folder, and no pipeline of the hub that can be loaded"):
        harmonica.load_pipeline(tmp_path / "typo")


def test_the_class_of_the_scheduler(both):
    with pytest.raises(UserError, match=r"for iddpm \(DDPMScheduler\), the pipeline has DPMSolverMultistepScheduler"):
        both["pixart"].enable(plan(24, **both["pixart"].about | {"sampler": "iddpm"}))
    with pytest.raises(UserError, match="which no diffusers scheduler is"):
        both["dit"].enable(plan(16, **both["dit"].about | {"sampler": "dpm-solver"}))


def test_steps_are_counted_not_looked_up(both):
    """With Karras' sigmas 100 steps repeat a time; they are others than the plan's, which can be allowed."""
    own, before = both["pixart"], both["pixart"].pipe.scheduler
    try:
        own.pipe.scheduler = other_scheduler(own.pipe, use_karras_sigmas=True)
        p = plan(24, steps=100, **own.about)
        own.enable(p, allow=["scheduler"])
        with pytest.warns(UserWarning, match="use_karras_sigmas"):
            own(num_inference_steps=100)
        times = own.pipe.scheduler.timesteps.tolist()
        assert len(times) == 100 > len(set(times))
    finally:
        own.pipe.scheduler = before
        own.disable()


def test_timesteps_of_ones_own(both):
    own = both["pixart"]
    own.enable()
    with pytest.raises(UserError, match=r"step 1 is at t = 100, and the plan's at 749"):
        own(timesteps=[999, 100, 50, 20])
    assert torch.equal(own(timesteps=[999, 749, 500, 250]), own.cached)
    own.disable()


def test_a_scheduler_that_evaluates_twice(both):
    own, before = both["pixart"], both["pixart"].pipe.scheduler
    try:
        own.enable(allow=["scheduler"])
        own.pipe.scheduler = HeunDiscreteScheduler.from_config(before.config)
        with pytest.raises(UserError, match="HeunDiscreteScheduler evaluates the model more than once per step"):
            own()
        own.disable()
        with pytest.raises(UserError, match="HeunDiscreteScheduler evaluates the model more than once per step"):
            own.enable()
    finally:
        own.pipe.scheduler = before
        own.disable()


def test_spacings_of_ddim_may_differ(dit):
    """Our DDIM keeps steps that no spacing of diffusers gives: its two closest are accepted."""
    before = dit.pipe.scheduler
    try:
        for spacing in ("leading", "linspace"):
            dit.pipe.scheduler = DDIMScheduler.from_config(before.config, timestep_spacing=spacing)
            assert not torch.equal(dit(dit.enable()), dit.uncached)
    finally:
        dit.pipe.scheduler = before


def test_stock_classes_load_the_shipped_folders(both, tmp_path):
    """The classes have diffusers' names: what they save is diffusers' own."""
    for own in both.values():
        own.pipe.save_pretrained(tmp_path)
        assert f'"_class_name": "{type(own.pipe).__name__}"' in (tmp_path / "model_index.json").read_text()
    with pytest.raises(UserError, match=r"labels must be in \[0, 9\], got 10"):
        both["dit"].pipe([3, 10])
    with pytest.raises(UserError, match="No such file: .*model_index.json"):
        harmonica.load_pipeline(POCKET)


@pytest.mark.parametrize("content", [b"1234", None, b"version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_folder_is_one_sentence(tmp_path, content):
    shutil.copytree(POCKET / "fashion-mnist", tmp_path / "m")
    path = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match="is not a complete pipeline of the class DiTPipeline"):
        harmonica.load_pipeline(tmp_path / "m")


def test_the_null_class_is_the_models_own(dit):
    """As our loop has it, at any guidance, and the label 1000 of diffusers is not needed."""
    seen = []
    dit.pipe.transformer.transformer_blocks[0].norm1.emb.class_embedder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].tolist())
    )
    dit.pipe([3, 7], num_inference_steps=1)
    dit.pipe([3, 7], num_inference_steps=1, guidance_scale=1.0)
    assert seen[0] == [3, 7, 10, 10] and seen[-1] == [3, 7]


def test_the_calls_of_the_readme(tmp_path):
    """Its commands and its Python, as printed."""
    readme = (ROOT / "README.md").read_text("utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", readme, re.S) if "enable_cache" in c)
    made = next(
        line for line in readme.splitlines() if line.startswith("harmonica plan") and "plan.safetensors" in line
    )
    (tmp_path / "harmonica").symlink_to(ROOT / "harmonica")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for command in (["sh", "-c", made], [sys.executable, "-W", "error::UserWarning:harmonica", "-c", code]):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in tmp_path.glob("*.png")} == set(re.findall(r'save\("(.*?)"\)', code)) != set()
