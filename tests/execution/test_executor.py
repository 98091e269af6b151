import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_BRANCHES, plans, protocol, sample
from hypothesis import given

from harmonica.backbones.layers import add, gelu_tanh, in_precision, mix
from harmonica.execution import Guided, Plain, Planned, StepPolicy
from harmonica.execution.executor import evaluate
from harmonica.execution.policy import PlannedStep
from harmonica.execution.seeds import noise_and_labels
from harmonica.plan import (
    COMPUTE,
    FORECAST,
    FORECASTS,
    OUTPUT_FORECAST,
    REUSE,
    SPAN_DELTA,
    SPAN_FORECAST,
    Plan,
    all_compute,
    cache_bytes,
)
from harmonica.samplers.ddim import DDIM
from harmonica.training import distributed
from harmonica.training.logits import Logits, Row
from harmonica.training.sdt import trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.errors import UserError

LABELS = torch.tensor([0, 3, 4])


def row_of(ratios: torch.Tensor) -> Row:
    return Row(ratios, (ratios > 0.1).tolist())


def generate(model, plan, first=0):
    noise, _ = noise_and_labels(0, first, 3, model.latent_shape, 5)
    policy = Planned(model, plan)
    return sample(Guided(model, LABELS, 1.5, 3), DDIM(plan.steps), policy, noise), policy


def slowly(model, plan, first=0):
    """What a plan means, written down without any cleverness: every output of every step is kept."""
    noise, _ = noise_and_labels(0, first, 3, model.latent_shape, 5)
    guided, sampler, x = Guided(model, LABELS, 1.5, 3), DDIM(plan.steps), noise
    deltas, ends = defaultdict(list), defaultdict(list)  # of a branch, newest first; of a span: streams at its ends
    outputs = []  # of the model, newest first

    class Policy(StepPolicy):
        def __init__(self, s):
            self.s, self.row, self.streams = s, plan.actions[s].tolist(), {}

        def forecast(self, i, outputs):
            weights = plan.weights[self.s, i if plan.weights.shape[1] > 1 else 0]
            return sum(float(w) * x for w, x in zip(weights, outputs, strict=False) if w)

        def __call__(self, i, x, ctx):
            action = self.row[i]
            if action in (COMPUTE, REUSE, FORECAST):
                self.streams[i] = x
                if action == COMPUTE:
                    deltas[i].insert(0, model.delta(i, x, ctx))
                delta = self.forecast(i, deltas[i]) if action == FORECAST else deltas[i][0]
                x, i = add(x, delta, model.gate(i, ctx)), i + 1
            else:
                stop = i
                while stop < len(self.row) and self.row[stop] == action:
                    stop += 1
                before, after = ends[i, stop][0]
                if action == SPAN_DELTA:
                    x = x + (after - before)
                else:
                    x = self.forecast(i, [end for _, end in ends[i, stop]]) if action == SPAN_FORECAST else after
                i = stop
            self.streams[i] = x
            return x, i

        def cached_output(self):
            return self.forecast(0, outputs) if self.row[0] == OUTPUT_FORECAST else None

        def keep_output(self, out):
            outputs.insert(0, out)

    with torch.inference_mode():
        for s in range(plan.steps):
            policy = Policy(s)
            out = guided(x, sampler.timesteps[s], policy)
            for a in range(TINY_BRANCHES):
                for b in range(a + 1, TINY_BRANCHES + 1):
                    if np.isin(plan.actions[s, a:b], (COMPUTE, REUSE, FORECAST)).all():  # it passed the whole span
                        ends[a, b].insert(0, (policy.streams[a], policy.streams[b]))
            x = sampler.step(s, out, x)
    return x


@given(plans())
def test_a_plan_does_what_it_means(tiny, plan):
    fast, policy = generate(tiny, plan)
    if np.isin(plan.actions, FORECASTS).any():  # weights are multiplied into gates, which rounds differently
        torch.testing.assert_close(fast, slowly(tiny, plan), rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(fast, slowly(tiny, plan))
    assert policy.cache.cur == pytest.approx(plan.cur)
    assert policy.cache.peak_bytes == cache_bytes(plan, tiny.layout, batch=3)


def test_all_compute_is_the_uncached_model_bit_for_bit(tiny):
    cached, _ = generate(tiny, all_compute(protocol(5), TINY_BRANCHES))
    noise, _ = noise_and_labels(0, 0, 3, tiny.latent_shape, 5)
    assert torch.equal(cached, sample(Guided(tiny, LABELS, 1.5, 3), DDIM(5), Plain(tiny), noise))


def test_nothing_is_carried_from_one_batch_to_the_next(tiny):
    actions = np.zeros((4, TINY_BRANCHES), np.uint8)
    actions[2:] = REUSE
    policy = Planned(tiny, Plan(actions, protocol(4)))
    noise, _ = noise_and_labels(0, 7, 3, tiny.latent_shape, 5)
    model, sampler = Guided(tiny, LABELS, 1.5, 3), DDIM(4)
    sample(model, sampler, policy, noise.flip(0))
    assert torch.equal(sample(model, sampler, policy, noise), generate(tiny, policy.plan, first=7)[0])


def test_a_cache_that_is_not_used_fails_the_run(tiny, monkeypatch):
    actions = np.zeros((3, TINY_BRANCHES), np.uint8)
    actions[1] = REUSE
    plan = Plan(actions, protocol(3))

    def off(self, i, x, ctx):
        return add(x, self.backbone.delta(i, x, ctx), self.backbone.gate(i, ctx)), i + 1

    monkeypatch.setattr(PlannedStep, "__call__", off)
    with pytest.raises(UserError, match="measured CUR 0.00 %.*the cache was not used as requested"):
        generate(tiny, plan)


def test_a_plan_for_another_backbone_is_refused(tiny):
    with pytest.raises(UserError, match="branches"):
        Planned(tiny, all_compute(protocol(3), TINY_BRANCHES + 2))


def test_soft_reuse_at_the_ends(tiny):
    """r = 1 is the plain model, r = 0 the stored output; gradients reach the ratios and no weight."""
    x, labels = torch.randn(3, *tiny.latent_shape), tiny.condition(LABELS)
    soft = Soft(tiny)
    with torch.no_grad():
        first = evaluate(tiny, x, 500, labels, soft.row(None))
        assert torch.equal(first, evaluate(tiny, x, 500, labels, Plain(tiny)))
        ones = evaluate(tiny, x * 0.9, 400, labels, soft.row(row_of(torch.ones(TINY_BRANCHES))))
        torch.testing.assert_close(ones, evaluate(tiny, x * 0.9, 400, labels, Plain(tiny)))
    ratios = torch.full((TINY_BRANCHES,), 0.5, requires_grad=True)
    evaluate(tiny, x, 300, labels, soft.row(row_of(ratios))).sum().backward()
    assert (ratios.grad != 0).all() and all(p.grad is None for p in tiny.parameters())


def test_gradients_of_soft_reuse():
    """By fresh and cached output and by the ratio, against differences; the values against torch's own."""
    cached, fresh = torch.randn(2, 2, 3, 4, dtype=torch.double).requires_grad_()
    ratio = torch.tensor(0.3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(mix, (cached, fresh, ratio))
    torch.testing.assert_close(mix(cached, fresh, ratio), torch.lerp(cached, fresh, ratio))


def test_computing_again_gives_the_same_gradients(tiny):
    """Checkpointed branches against kept ones."""
    x, labels = torch.randn(3, *tiny.latent_shape), tiny.condition(LABELS)
    found = []
    for checkpointing in (False, True):
        soft = Soft(tiny, checkpointing=checkpointing)
        with torch.no_grad():
            evaluate(tiny, x, 500, labels, soft.row(None))
        ratios = torch.linspace(0.2, 0.8, TINY_BRANCHES).requires_grad_()
        evaluate(tiny, x, 300, labels, soft.row(row_of(ratios))).square().sum().backward()
        found.append(ratios.grad)
    torch.testing.assert_close(*found)


def test_gradients_of_each_step_are_those_through_everything(tiny, monkeypatch):
    """SDT keeps no graph between steps, trains no weight and brings its own GELU. The same trajectory as one graph over
    all steps, caches and weights with torch's own functions: each step's loss has the same gradient for its ratios."""
    from harmonica.backbones import dit

    steps, noise = 5, torch.randn(3, *tiny.latent_shape, dtype=torch.float64)
    model, sampler, weights = in_precision(copy.deepcopy(tiny), torch.float64), DDIM(steps), torch.rand(steps)
    rows = torch.randn(steps, TINY_BRANCHES)
    logits, found = Logits(rows, range(1, steps), lr=1e-30), [None]
    monkeypatch.setattr(distributed, "mean", lambda gradient: found.append(gradient.clone()))
    start = Start(Guided(model, LABELS, 1.5, 3), noise)
    trajectory([start], sampler, logits, [Soft(model)], weights, 1e-3, 0.1, stale=False)

    monkeypatch.setattr(dit, "gelu_tanh", lambda x: F.gelu(x, approximate="tanh"))
    model.requires_grad_(True)
    guided, soft = Guided(model, LABELS, 1.5, 3), Soft(model, detach=False)
    own, x = rows.clone().requires_grad_(), noise
    for s, t in enumerate(sampler.timesteps):
        student = guided.both(x, t, soft.row(row_of(own[s].sigmoid()) if s else None))
        if s:
            loss = (
                weights[s] * (guided.both(x, t, Plain(model)) - student).square().mean() + 1e-3 * own[s].sigmoid().sum()
            )
            (gradient,) = torch.autograd.grad(loss, own, retain_graph=True)
            torch.testing.assert_close(gradient[s], found[s])
            assert s == 1 or (gradient[1:s] != 0).any()  # it does reach the steps before, which SDT leaves out
        x = sampler.step(s, student[:3], x)


def test_gelu_and_its_derivative(tiny):
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gelu_tanh, (x,))
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"))


def test_tokens_lie_side_by_side(tiny):
    """Else every branch pays for strides."""
    x, _ = tiny.embed(torch.randn(3, *tiny.latent_shape), 5, tiny.condition(LABELS))
    assert x.is_contiguous()


def test_teacher_and_student_share_the_first_branch(tiny, monkeypatch):
    """Both see the same latents there: it is computed once a step, and no number changes."""
    noise, found, calls, delta = torch.randn(3, *tiny.latent_shape), [], [], tiny.delta
    monkeypatch.setattr(tiny, "delta", lambda i, x, ctx: calls.append(i) or delta(i, x, ctx))
    row = Soft.row
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr(Soft, "row", lambda self, ratios, first=None: row(self, ratios))
        calls.clear()
        logits = Logits(torch.linspace(-2, 2, 4 * TINY_BRANCHES).view(4, -1), range(1, 4), lr=0.1)
        guided = Guided(tiny, LABELS, 1.5, 3)
        (x0,), _ = trajectory([Start(guided, noise)], DDIM(4), logits, [Soft(tiny)], torch.ones(4), 1e-3, 0.1)
        found.append((x0, logits.numpy()))
        assert calls.count(0) == (4 if shared else 7) and calls.count(1) == 7
    assert torch.equal(found[0][0], found[1][0]) and (found[0][1] == found[1][1]).all()
