"""Plans on stock diffusers pipelines of other families than the suite's models, at small random sizes."""

import warnings

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from tiny_pipelines import BUILDERS, STEPS, Tiny, tiny

import harmonica
from harmonica.plan import (
    COMPUTE,
    FORECAST,
    FORECASTS,
    OUTPUT_FORECAST,
    REUSE,
    SPAN_DELTA,
    SPAN_FORECAST,
    SPAN_OUTPUT,
    Plan,
    Rule,
    all_compute,
)
from harmonica.plan.forecast import extrapolation
from harmonica.runtimes.pipeline_branches import blocks_of
from harmonica.runtimes.pipeline_calls import Calls
from harmonica.runtimes.pipeline_hooks import NAME
from harmonica.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(params=BUILDERS)
def family(request) -> Tiny:
    return tiny(request.param)


def calls(family: Tiny) -> Calls:
    return Calls.of(family.pipe, ["a prompt"], STEPS, arguments=family.arguments)


def plan(family: Tiny, row, rule: Rule | None = None) -> Plan:
    """Computes at even steps, and what `row` says of (steps, branches) at odd ones; forecasts are linear."""
    branches = blocks_of(family.pipe.transformer)[-1].stop
    actions = np.zeros((STEPS, branches), np.uint8)
    actions[3::2] = np.broadcast_to(row, (STEPS, branches))[3::2]
    actions[1:3] = 0
    protocol = calls(family).protocol
    weights = extrapolation(actions, 1) if np.isin(actions, FORECASTS).any() else None
    return Plan(actions, protocol, weights=weights, rule=rule)


def test_computing_everything_changes_no_bit(family):
    before = family()
    everything = all_compute(calls(family).protocol, blocks_of(family.pipe.transformer)[-1].stop)
    with harmonica.cached(family.pipe, everything):
        assert torch.equal(family(), before)
    assert torch.equal(family(), before)
    registries = [m._diffusers_hook for m in family.pipe.transformer.modules() if hasattr(m, "_diffusers_hook")]
    assert not any(NAME in r.hooks for r in registries)  # pipelines leave empty ones of their own


@pytest.mark.parametrize("action", [REUSE, FORECAST])
def test_branches_are_reused_as_planned(family, action, monkeypatch):
    """Every branch is replaced by what it, or its forecast, should give: a run that computes them all, with the
    outputs of the steps before put in place."""
    p = plan(family, action * np.random.default_rng(0).integers(0, 2, plan(family, 0).actions.shape))
    before = family()
    with harmonica.cached(family.pipe, p):
        found = family()
    assert found.isfinite().all() and not torch.equal(found, before)
    torch.testing.assert_close(found, _replaced(family, p), rtol=1e-4, atol=1e-4)


def _replaced(family: Tiny, p: Plan) -> torch.Tensor:
    """What a pipeline gives if the outputs of its branches are replaced by hand, by torch's own hooks."""
    blocks = blocks_of(family.pipe.transformer)
    history: dict[tuple[int, int], list] = {}  # by place in a step and branch, the newest first
    evaluation, handles = [-1], []

    def parts(x):
        return [x] if isinstance(x, torch.Tensor) else [t for t in x if t is not None]

    def on(i: int, block=None):
        def hook(module, args, kwargs, out):
            step, place = divmod(evaluation[0], family.per_step)
            base = [0.0] * len(parts(out))
            own = parts(out)
            if block is not None:
                base = list(block.taken(args, kwargs))
                own = list(block.given(out, tuple(base)))
            earlier = history.setdefault((place, i), [])
            if p.actions[step, i] == COMPUTE:
                earlier.insert(0, [a - b for a, b in zip(own, base, strict=True)])
                return None
            w = [1.0] if p.weights is None else p.weights[step, i]
            new = [b + sum(float(w[j]) * earlier[j][n] for j in range(len(w)) if w[j]) for n, b in enumerate(base)]
            if block is not None:
                return block.returned(tuple(new), out)
            if isinstance(out, torch.Tensor):
                return new[0]
            it = iter(new)
            return tuple(None if t is None else next(it) for t in out)

        return hook

    def count(module, args, kwargs):
        evaluation[0] += 1

    handles.append(family.pipe.transformer.register_forward_pre_hook(count, with_kwargs=True))
    for b in blocks:
        if not b.branches:
            handles.append(b.module.register_forward_hook(on(b.start, b), with_kwargs=True))
        for k, name in enumerate(b.branches):
            handles.append(getattr(b.module, name).register_forward_hook(on(b.start + k), with_kwargs=True))
    try:
        return family()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("action", [SPAN_DELTA, SPAN_OUTPUT, SPAN_FORECAST])
def test_spans(family, action):
    """Of all blocks: what the last one gives is that of the step before, or follows from it."""
    blocks = blocks_of(family.pipe.transformer)
    p = plan(family, action)
    if action == SPAN_DELTA and family.merged:
        with pytest.raises(UserError, match="whose streams differ"):
            harmonica.enable_cache(family.pipe, p)
        return
    ends: list = []
    last = blocks[-1]

    def keep(module, args, kwargs, out):
        ends.append((last.taken(args, kwargs)[0], last.given(out, last.taken(args, kwargs))[0]))

    with harmonica.cached(family.pipe, p):
        handle = last.module.register_forward_hook(keep, with_kwargs=True)
        try:
            found = family()
        finally:
            handle.remove()
    assert found.isfinite().all()
    at = family.per_step
    streams = [x[1] for x in ends[::at]]
    assert len(streams) == STEPS
    if action == SPAN_OUTPUT:
        assert torch.equal(streams[3], streams[2])
    if action == SPAN_FORECAST:
        torch.testing.assert_close(streams[3], 2 * streams[2] - streams[1], rtol=1e-3, atol=1e-4)


def test_what_comes_after_the_blocks_is_not_forecast(family):
    with pytest.raises(UserError, match="forecasts the model's output.*form=last"):
        harmonica.enable_cache(family.pipe, plan(family, OUTPUT_FORECAST))


def test_a_span_of_some_blocks(family):
    blocks = blocks_of(family.pipe.transformer)
    inner = [b for b in blocks if b.streams == blocks[0].streams][1:]
    row = np.zeros(blocks[-1].stop, np.uint8)
    row[inner[0].start : inner[-1].stop] = SPAN_DELTA
    p = plan(family, row)
    if any(b.joins_skips for b in blocks):
        with pytest.raises(UserError, match="long skips"):
            harmonica.enable_cache(family.pipe, p)
        return
    called = []
    handles = [b.module.register_forward_pre_hook(lambda *_, n=b.name: called.append(n)) for b in inner]
    with harmonica.cached(family.pipe, p):
        ran = [getattr(b.module, b.branches[0]) if b.branches else None for b in inner]
        counts = []
        handles += [m.register_forward_pre_hook(lambda *_: counts.append(1)) for m in ran if m is not None]
        assert family().isfinite().all()
    for handle in handles:
        handle.remove()
    skipped = int((p.actions[:, inner[0].start] == SPAN_DELTA).sum())
    computed = (STEPS - skipped) * family.per_step * sum(m is not None for m in ran)
    assert len(counts) == computed


RULES = {
    "input": Rule("input", 0.4), "first branches": Rule("first branches", 0.5, most=2), "rate": Rule("rate", 0.5),
    "verified": Rule("verified", 0.5, order=1, parameters={"least": 1.0, "decay": 0.5, "floor": 0.01}),
}  # fmt: skip


@pytest.mark.parametrize("measure", RULES)
def test_rules(family, measure):
    """A threshold of 0 changes no bit, a large one skips all it may, and images do not depend on each other."""
    blocks = blocks_of(family.pipe.transformer)
    row = np.full(blocks[-1].stop, SPAN_DELTA, np.uint8)
    if measure == "first branches":
        row[: blocks[0].stop] = COMPUTE
    if measure == "verified":
        row[blocks[-1].start :] = COMPUTE
    rule = RULES[measure]
    table = np.broadcast_to(row, (STEPS, len(row)))
    p = plan(family, table, rule)
    if family.merged or (any(b.joins_skips for b in blocks) and (row == COMPUTE).any()):
        with pytest.raises(UserError, match="streams differ|long skips"):
            harmonica.enable_cache(family.pipe, p)
        return
    own, before = calls(family), calls(family).latents([0, 1])
    never = Plan(p.actions, p.protocol, rule=Rule(measure, 0.0, order=rule.order, parameters=rule.parameters))
    always = Plan(p.actions, p.protocol, rule=Rule(measure, 1e6, order=rule.order, parameters=rule.parameters))
    if measure != "verified":  # whose first forecast is not verified
        assert torch.equal(own.latents([0, 1], never), before)
        assert not own.skipped([0], never).any()
    skips = own.skipped([0], always)
    assert torch.equal(skips, torch.from_numpy(p.actions.any(1)).expand(len(skips), STEPS))
    with harmonica.cached(family.pipe, p):
        alone = family()
        if "generator" not in family.arguments:
            assert torch.equal(family(), alone)


def test_the_layout_is_counted(family):
    layout = calls(family).layout
    blocks = blocks_of(family.pipe.transformer)
    assert len(layout.branches) == blocks[-1].stop and (layout.branch_macs > 0).all() and layout.other_macs > 0
    assert len(layout.blocks) == len(blocks)


def test_a_plan_of_another_pipeline_is_refused():
    p = plan(tiny("sd3"), REUSE)
    assert p.protocol.model.startswith("SD3Transformer2DModel-")
    with pytest.raises(UserError, match="transformer is WanTransformer3DModel-.*, not SD3Transformer2DModel-"):
        harmonica.enable_cache(tiny("wan").pipe, p)


def test_other_weights_are_another_model():
    family = BUILDERS["sana"]()
    p = plan(family, REUSE)
    harmonica.disable_cache(harmonica.enable_cache(family.pipe, p))
    family.pipe.transformer.to(torch.bfloat16)  # the same model
    harmonica.disable_cache(harmonica.enable_cache(family.pipe, p))
    family.pipe.transformer.proj_out.bias.add_(1.0)
    with pytest.raises(UserError, match="transformer is SanaTransformer2DModel-.*, not SanaTransformer2DModel-"):
        harmonica.enable_cache(family.pipe, p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harmonica.disable_cache(harmonica.enable_cache(family.pipe, p, allow=["model"]))


def test_the_settings_of_the_scheduler_count(tmp_path):
    family = BUILDERS["flux"]()
    plan(family, REUSE).save(tmp_path / "p.safetensors")
    p = Plan.load(tmp_path / "p.safetensors")
    family.pipe.scheduler = type(family.pipe.scheduler)(shift=7.0)
    with pytest.raises(UserError, match="shift 7.0, not 1.0"):
        harmonica.enable_cache(family.pipe, p)
    family.pipe.scheduler = type(family.pipe.scheduler)()
    harmonica.enable_cache(family.pipe, p)
    with pytest.raises(UserError, match="the plan is for guidance_scale=3.5, the call has 5"):
        family(guidance_scale=5.0)
    with pytest.raises(UserError, match="the plan is for true_cfg_scale=1, the call has 4"):
        family(true_cfg_scale=4.0, negative_prompt="a cat")
    with pytest.raises(UserError, match="the scheduler's own timesteps, and the call gives sigmas"):
        family(sigmas=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    with pytest.raises(UserError, match="for 6 steps"):
        family(num_inference_steps=5)


def test_the_second_guidance_scale_is_the_plans(tmp_path):
    """Flux' distilled guidance is an input of its transformer; with a true scale it is evaluated once more a step."""
    family = BUILDERS["flux"]()
    guided = Calls.of(family.pipe, ["a prompt"], STEPS, arguments=family.arguments | {"true_cfg_scale": 4.0})
    assert (guided.protocol.cfg, guided.protocol.true_cfg) == (3.5, 4)
    all_compute(guided.protocol, len(plan(family, REUSE).actions[0])).save(tmp_path / "p.safetensors")
    p = Plan.load(tmp_path / "p.safetensors")
    assert p.protocol == guided.protocol
    harmonica.enable_cache(family.pipe, p)
    with pytest.raises(UserError, match="the plan is for true_cfg_scale=4, the call has 1"):
        family()


@pytest.mark.parametrize(
    "name, backend",
    [("flux", "eager"), ("wan", "eager"), ("sd3", "eager")]
    + [pytest.param(name, "inductor", marks=pytest.mark.extended) for name in ("flux", "wan", "sd3", "sana")],
)
def test_compiled_blocks(name, backend):
    family = BUILDERS[name]()
    family.pipe.set_progress_bar_config(disable=True)
    p, before = plan(family, REUSE), family()
    with harmonica.cached(family.pipe, p):
        expected = family()
    for block in blocks_of(family.pipe.transformer):
        block.module.compile(backend=backend)
    torch.testing.assert_close(family(), before)
    with harmonica.cached(family.pipe, p):
        torch.testing.assert_close(family(), expected)
    torch.testing.assert_close(family(), before)


@pytest.mark.parametrize("name", ["flux", "wan", "sana"])
def test_offloaded(name):
    """Weights come from accelerate's map, also for the identity of the model."""
    family = BUILDERS[name]()
    family.pipe.set_progress_bar_config(disable=True)
    p, before = plan(family, REUSE), family()
    with harmonica.cached(family.pipe, p):
        expected = family()
    cpu_offload(family.pipe.transformer, execution_device=torch.device("cpu"))
    assert calls(family).protocol == p.protocol
    with harmonica.cached(family.pipe, p):
        assert torch.equal(family(), expected)
    assert torch.equal(family(), before)
