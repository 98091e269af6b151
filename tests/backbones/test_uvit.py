"""U-ViT: the model, long skips under a plan, its sampler."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import protocol
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from harmonica.backbones.layers import add
from harmonica.backbones.uvit import UViT
from harmonica.execution import Guided, Plain, Planned, Run, StepPolicy, denoise
from harmonica.execution.executor import evaluate
from harmonica.execution.seeds import noise_and_labels
from harmonica.models import get_model
from harmonica.models.random_weights import build_backbone
from harmonica.plan import COMPUTE, REUSE, SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED, Plan, all_compute, cache_bytes, macs
from harmonica.runtimes.compiled import Compiled
from harmonica.samplers.dpm_solver import DPMSolver
from harmonica.samplers.schedules import SCHEDULES
from harmonica.training.learning_to_cache import pair
from harmonica.training.logits import Logits
from harmonica.training.settings import routed_steps
from harmonica.utils.errors import UserError

TINY = dict(
    img_size=4, patch_size=2, in_chans=4, embed_dim=16, depth=4, num_heads=2, mlp_ratio=4, qkv_bias=False, num_classes=6
)  # fmt: skip
BRANCHES = 2 * (TINY["depth"] + 1)
LABELS = torch.tensor([0, 3, 4])


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = UViT(TINY, "tiny").eval().requires_grad_(False)
    for p in model.parameters():
        p.normal_(std=0.25)
    return model


def written_down(w: dict, x, t, y, config):
    """U-ViT from its paper, on a state dict, one head after the other."""
    D, patch, heads = config["embed_dim"], config["patch_size"], config["num_heads"]

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def block(name, x, skip=None):
        if skip is not None:
            x = linear(f"{name}.skip_linear", torch.cat([x, skip], -1))
        q, k, v = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).chunk(3, -1)
        out = []
        for part in zip(*(m.split(D // heads, -1) for m in (q, k, v)), strict=True):
            scores = part[0] @ part[1].transpose(1, 2) / math.sqrt(D // heads)
            out.append(scores.softmax(-1) @ part[2])
        x = x + linear(f"{name}.attn.proj", torch.cat(out, -1))
        return x + linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))))

    patches = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], patch).flatten(2).transpose(1, 2)
    freq = torch.exp(-math.log(10000) * torch.arange(D // 2) / (D // 2))
    angle = t[:, None] * freq
    time = torch.cat([angle.cos(), angle.sin()], 1)
    x = torch.cat([w["label_emb.weight"][y][:, None], time[:, None], patches], 1) + w["pos_embed"]
    skips = []
    for i in range(config["depth"] // 2):
        x = block(f"in_blocks.{i}", x)
        skips.append(x)
    x = block("mid_block", x)
    for i in range(config["depth"] // 2):
        x = block(f"out_blocks.{i}", x, skips.pop())
    x = linear("decoder_pred", norm("norm", x))[:, 2:]
    side = config["img_size"] // patch
    x = x.view(len(x), side, side, patch, patch, config["in_chans"])
    return torch.einsum("bhwpqc->bchpwq", x).reshape(len(x), config["in_chans"], config["img_size"], config["img_size"])


@pytest.mark.parametrize("t", [1.0, 37.25, 1000.0])
def test_equals_the_paper(tiny, t):
    x, y = torch.randn(3, 4, 4, 4), torch.tensor([0, 5, 2])
    theirs = written_down(tiny.state_dict(), x, torch.full((3,), t), y, TINY)
    torch.testing.assert_close(evaluate(tiny, x, t, tiny.condition(y), Plain(tiny)), theirs, atol=1e-4, rtol=1e-4)


def test_macs_are_those_that_torch_counts(tiny):
    with FlopCounterMode(display=False) as counter:
        evaluate(tiny, torch.randn(1, 4, 4, 4), 500.0, tiny.condition(LABELS[:1]), Plain(tiny))
    assert counter.get_total_flops() == 2 * tiny.layout.macs


def test_names_and_branches_of_the_huge_model():
    about = get_model("uvit-h-2-256")
    with torch.device("meta"):
        model = build_backbone(about)
    names = set(model.state_dict())
    assert {"in_blocks.13.attn.qkv.weight", "mid_block.mlp.fc1.bias", "out_blocks.13.skip_linear.weight", "norm.weight",
            "pos_embed", "label_emb.weight", "decoder_pred.bias", "patch_embed.proj.weight"} <= names  # fmt: skip
    assert not any("attn.qkv.bias" in n for n in names)
    assert len(about.layout.branches) == 58 and sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        501, abs=1
    )


@st.composite
def plans(draw):
    """Plans with single reuses, and spans anywhere, also over the beginnings of long skips that are joined later."""
    steps = 2 * draw(st.integers(1, 3))
    actions = np.zeros((steps, BRANCHES), np.uint8)
    for s in range(1, steps):
        kind = draw(st.sampled_from([0, REUSE, SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED]))
        if kind == REUSE:
            actions[s] = draw(st.lists(st.sampled_from([0, REUSE]), min_size=BRANCHES, max_size=BRANCHES))
        elif kind:
            start = draw(st.integers(0, BRANCHES - 1))
            actions[s, start : draw(st.integers(start + 1, BRANCHES))] = kind
    return Plan(actions, protocol(steps, sampler="dpm-solver", cfg=1.4))


def slowly(model, plan):
    """What a plan means on a model with long skips, with every stream of every step kept."""
    noise, _ = noise_and_labels(0, 0, 3, model.latent_shape, 5)
    guided, sampler = Guided(model, LABELS, plan.protocol.cfg, 4), DPMSolver(plan.steps)
    last_delta, last_span = {}, {}

    class Step(StepPolicy):
        skips = {}  # of all steps

        def __init__(self, row):
            self.row, self.streams, self.ends = row, {}, {}

        def __call__(self, i, x, ctx):
            action, stop = self.row[i], i + 1
            self.streams[i] = x
            if action in (COMPUTE, REUSE):
                last_delta[i] = model.delta(i, x, ctx) if action == COMPUTE else last_delta[i]
                x = add(x, last_delta[i], model.gate(i, ctx))
            else:
                while stop < len(self.row) and self.row[stop] == action:
                    stop += 1
                before, after = last_span[i, stop]
                moved = x + (after - before)
                if action == SPAN_TIMED:
                    after = torch.cat([moved[:, :2], after[:, 2:]], 1)
                x = moved if action == SPAN_DELTA else after
            self.ends[stop] = x
            return x, stop

    def output(latents, s):
        step = Step(plan.actions[s].tolist())
        out = guided(latents, sampler.timesteps[s], step)
        for a in range(BRANCHES):
            for b in range(a + 1, BRANCHES + 1):
                if (plan.actions[s, a:b] <= REUSE).all():
                    last_span[a, b] = (step.streams[a], step.ends[b])
        return out

    with torch.inference_mode():
        return denoise(sampler, sampler.begin(noise), output)


@given(plans())
def test_a_plan_does_what_it_means(tiny, plan):
    noise, _ = noise_and_labels(0, 0, 3, tiny.latent_shape, 5)
    policy = Planned(tiny, plan)
    own = Run(tiny, plan, LABELS, policy)(noise)
    torch.testing.assert_close(own, slowly(tiny, plan), atol=1e-4, rtol=1e-4)
    assert policy.cache.peak_bytes == cache_bytes(plan, tiny.layout, batch=3)


@pytest.mark.parametrize("cfg", [1.0, 1.4])
def test_decoders_between_key_steps_run_as_one_batch(tiny, cfg, monkeypatch):
    """Keys 0 and 4 of 8: four evaluations instead of eight, the same images, every reuse counted."""
    actions = np.zeros((8, BRANCHES), np.uint8)
    actions[[1, 2, 3, 5, 6, 7], :6] = SPAN_TIMED
    plan = Plan(actions, protocol(8, sampler="dpm-solver", cfg=cfg))
    noise, _ = noise_and_labels(0, 0, 3, tiny.latent_shape, 5)
    embedded, embed = [], tiny.embed
    monkeypatch.setattr(tiny, "embed", lambda x, t, y: embedded.append(len(x)) or embed(x, t, y))
    policy = Planned(tiny, plan)
    own = Run(tiny, plan, LABELS, policy)(noise)
    halves = 1 if cfg == 1 else 2
    assert embedded == [3 * halves, 9 * halves] * 2 and policy.cache.cur == plan.cur
    torch.testing.assert_close(own, slowly(tiny, plan), atol=1e-4, rtol=1e-4)


def test_joins_that_are_left_out_cost_nothing(tiny):
    actions = np.zeros((2, BRANCHES), np.uint8)
    actions[1, 2:8] = SPAN_OUTPUT  # of the two joins the outer one is left
    plan, full = Plan(actions, protocol(2)), all_compute(protocol(2), BRANCHES)
    saved = tiny.layout.branch_macs[2:8].sum() + tiny.layout.skip_macs
    assert macs(full, tiny.layout) - macs(plan, tiny.layout) == saved
    assert macs(full, tiny.layout) == 2 * tiny.layout.macs


def test_solver_equals_its_formula():
    """The update as the paper writes it, with both data predictions of an interval."""
    sampler, x = DPMSolver(6), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    outputs = [torch.randn_like(x) for _ in range(6)]
    own, state = [], sampler.begin(x)
    for s in range(6):
        state = sampler.step(s, outputs[s], state)
        own.append(sampler.latents(state))
    bar, grid = SCHEDULES["scaled_linear"].alpha_bar, np.arange(1, 1001) / 1000

    def at(t):
        log_alpha = np.interp(t, grid, 0.5 * np.log(bar))
        alpha = math.exp(log_alpha)
        sigma = math.sqrt(1 - alpha**2)
        return alpha, sigma, math.log(alpha / sigma)

    edges = np.linspace(1, 1e-3, 4)
    for k in range(3):
        (a, sg, lam), (a2, sg2, lam2) = at(edges[k]), at(edges[k + 1])
        middle = sampler.timesteps[2 * k + 1] / 1000
        a1, sg1, lam1 = at(middle)
        assert sampler.timesteps[2 * k] == pytest.approx(1000 * edges[k])
        assert lam1 == pytest.approx((lam + lam2) / 2)
        h = lam2 - lam
        first = (x - sg * outputs[2 * k]) / a
        between = sg1 / sg * x - a1 * math.expm1(-h / 2) * first
        second = (between - sg1 * outputs[2 * k + 1]) / a1
        x = sg2 / sg * x - a2 * math.expm1(-h) * first - a2 * math.expm1(-h) * (second - first)
        torch.testing.assert_close(own[2 * k], between)
        torch.testing.assert_close(own[2 * k + 1], x)


def test_solver_is_of_second_order():
    """On Gaussian data the noise and the solution are known: halving the steps divides the error by about four."""

    def variance(bar):
        return bar * 0.3**2 + 1 - bar

    def error(steps):
        sampler = DPMSolver(steps)
        x = sampler.begin(torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64))

        def noise(latents, s):
            bar = sampler.alpha_bar(s)
            return (1 - bar) ** 0.5 * latents / variance(bar)

        bar = SCHEDULES["scaled_linear"].alpha_bar
        return abs(float(denoise(sampler, x, noise)) - 1.5 * math.sqrt(variance(bar[0]) / variance(bar[-1])))

    assert 3 < error(200) / error(400) < 5


@pytest.mark.parametrize("steps", [0, 7, 1002])
def test_numbers_of_steps_that_the_solver_refuses(steps):
    with pytest.raises(UserError, match=f"steps must be even and in \\[2, 1000\\], got {steps}"):
        DPMSolver(steps)


def test_prior_noise_is_added_at_the_ends_of_late_intervals(tiny):
    """With a plan that computes all, prior noise is all that differs; it comes where intervals end that began under
    t = 500."""
    steps, share = 6, 0.01
    noise, _ = noise_and_labels(0, 0, 3, tiny.latent_shape, 5)
    guided, sampler = Guided(tiny, LABELS, 1.4, 4), DPMSolver(steps)
    plan = all_compute(protocol(steps, sampler="dpm-solver", cfg=1.4, prior_noise=share), BRANCHES)
    own = Run(tiny, plan, LABELS)(noise)
    with torch.inference_mode():
        x = sampler.begin(noise)
        for s in range(steps):
            x = sampler.step(s, guided(sampler.latents(x), sampler.timesteps[s], Plain(tiny)), x)
            if s == 5:  # intervals begin at 1000, 667 and 334
                x = torch.cat([x[:, :4] + share * noise, x[:, 4:]], 1)
    torch.testing.assert_close(own, x[:, :4])


def test_learning_to_cache_trains_as_it_samples(tiny):
    """The student of an even step reuses what the middle of the interval before it computed."""
    sampler = DPMSolver(6)
    assert list(routed_steps(6, sampler.stages)) == [2, 4]
    logits = Logits(torch.full((6, BRANCHES), -90.0), range(2, 6, 2), 0.1)
    x0, noise = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    teacher, student = pair(tiny, sampler, logits, 2, x0, LABELS, noise)
    actions = np.zeros((6, BRANCHES), np.uint8)
    actions[2] = REUSE
    planned, seen = Planned(tiny, Plan(actions, protocol(6, sampler="dpm-solver"))), []
    bar = sampler.alpha_bar(0)
    x = sampler.begin(bar**0.5 * x0 + (1 - bar) ** 0.5 * noise)
    with torch.no_grad():
        for s in range(3):
            seen.append(evaluate(tiny, sampler.latents(x), sampler.timesteps[s], tiny.condition(LABELS), planned.at(s)))
            plain = evaluate(tiny, sampler.latents(x), sampler.timesteps[s], tiny.condition(LABELS), Plain(tiny))
            x = sampler.step(s, seen[-1], x)
    torch.testing.assert_close(student.detach(), seen[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher, plain, atol=1e-5, rtol=1e-4)


@settings(max_examples=4)
@given(plans())
def test_compiled_with_long_skips(tiny, plan):
    noise = torch.randn(3, *tiny.latent_shape)
    own, compiled = Planned(tiny, plan), Compiled(tiny, plan, backend="eager")
    expected, found = (Run(tiny, plan, LABELS, policy)(noise) for policy in (own, compiled))
    torch.testing.assert_close(found, expected, rtol=0, atol=float(1e-5 * expected.abs().max()))
    assert compiled.cache.cur == own.cache.cur
