"""Rules: what every sequence skips is its own affair, recorded, and what the methods' own words say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY_BRANCHES, protocol
from hypothesis import given
from hypothesis import strategies as st

from harmonica.execution import Planned, Ruled, Run
from harmonica.execution.rules import Outputs
from harmonica.plan import SPAN_DELTA, Plan, Rule, cache_bytes, macs
from harmonica.plan.forecast import taylor
from harmonica.plan.rule import cur_of, macs_of, realised
from harmonica.runtimes.compiled import Compiled
from harmonica.utils import UserError

STEPS = 8
BLOCK = 2  # branches


def ruled(rule: Rule, first: int = 0, stop: int = TINY_BRANCHES, warm_up: int = 1, cfg: float = 1.5) -> Plan:
    actions = np.zeros((STEPS, TINY_BRANCHES), np.uint8)
    actions[warm_up:, first:stop] = SPAN_DELTA
    return Plan(actions, protocol(STEPS, cfg=cfg), rule=rule)


RULES = {
    "input": ruled(Rule("input", 0.9, coefficients=(0.5, 1.0, 0.0))),
    "first branches": ruled(Rule("first branches", 1.0, most=3), BLOCK),
    "both ends": ruled(Rule("first branches", 1.0), BLOCK, TINY_BRANCHES - BLOCK),
    "rate": ruled(Rule("rate", 0.5), warm_up=2),
    "verified": ruled(
        Rule("verified", 0.5, 4, 2, parameters={"least": 1, "decay": 0.5, "floor": 0.01}), 0, TINY_BRANCHES - BLOCK, 3
    ),
}


def run(tiny, plan: Plan, noise, labels):
    policy = Ruled(tiny, plan)
    latents = Run(tiny, plan, labels, policy)(noise)
    return latents, policy


@pytest.fixture(scope="module")
def start():
    g = torch.Generator().manual_seed(3)
    return torch.randn(4, 4, 4, 4, generator=g), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("plan", RULES.values(), ids=RULES)
def test_no_image_changes_another(tiny, start, plan):
    """Alone or in a batch: the same steps are skipped, and the latents are the same but for rounding."""
    noise, labels = start
    together, policy = run(tiny, plan, noise, labels)
    assert 0 < policy.skipped.double().mean() < 1 and not policy.skipped[:, 0].any()
    for k in range(4):
        alone, own = run(tiny, plan, noise[k : k + 1], labels[k : k + 1])
        assert torch.equal(own.skipped, policy.skipped[[k, 4 + k]])  # conditional, then unconditional
        torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-4, atol=1e-4)


def test_halves_and_images_decide_for_themselves(tiny, start):
    found = []
    for threshold in np.linspace(0.05, 1, 12):
        _, policy = run(tiny, ruled(Rule("first branches", threshold), BLOCK), *start)
        found.append(policy.skipped)
    assert any((s[:4] != s[4:]).any() for s in found)
    assert any((s[0] != s[1]).any() for s in found)


@pytest.mark.parametrize("name", ["input", "first branches", "both ends", "rate"])
def test_what_an_image_did_is_a_plan(tiny, start, name):
    """Without guidance, the realised plan of an image gives its latents."""
    noise, labels = start
    plan = RULES[name].with_protocol(cfg=1.0)
    latents, policy = run(tiny, plan, noise, labels)
    for k in range(4):
        fixed = realised(plan, policy.skipped[k].numpy())
        again = Run(tiny, fixed, labels[k : k + 1])(noise[k : k + 1])
        torch.testing.assert_close(again, latents[k : k + 1], rtol=1e-4, atol=1e-4)
        share = policy.skipped[k].double().mean().item()
        assert fixed.cur == pytest.approx(float(cur_of(plan, share)))
        assert macs(fixed, tiny.layout) == pytest.approx(macs_of(plan, tiny.layout, share))


@pytest.mark.parametrize("plan", RULES.values(), ids=RULES)
def test_memory_is_as_predicted(tiny, start, plan):
    _, policy = run(tiny, plan, *start)
    assert policy.peak_bytes == cache_bytes(plan, tiny.layout, batch=4)


def sequence(tiny, plan: Plan, start, decide):
    """The streams of image 0 without guidance under `decide(s, x, probed, ctx, state)`, as plainly as can be; returns
    the skipped steps."""
    from harmonica.execution.executor import run_branches
    from harmonica.execution.policy import Plain
    from harmonica.samplers import make_sampler

    noise, labels = start
    sampler, condition = make_sampler("ddim", STEPS), tiny.condition(labels[:1])
    first, stop = (plan.actions[-1] != 0).nonzero()[0][[0, -1]] + [0, 1]
    state, x0, skipped = SimpleNamespace(delta=None, seen=[]), sampler.begin(noise[:1]), []
    with torch.inference_mode():
        for s in range(STEPS):
            x, ctx = tiny.embed(sampler.latents(x0), sampler.timesteps[s], condition)
            probed = run_branches(tiny, (0, first), x, ctx, Plain(tiny), {})
            skip = decide(s, x, probed, ctx, state) and plan.actions[s].any()
            skipped.append(bool(skip))
            end = probed + state.delta if skip else run_branches(tiny, (first, stop), probed, ctx, Plain(tiny), {})
            state.delta = end - probed
            out = run_branches(tiny, (stop, TINY_BRANCHES), end, ctx, Plain(tiny), {})
            state.seen.append(SimpleNamespace(x=x, added=probed - x, out=out, computed=not skip))
            x0 = sampler.step(s, tiny.head(out, ctx), x0, None)
    return skipped


def change(now, before) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def test_teacache_in_its_own_words(tiny, start):
    plan = RULES["input"].with_protocol(cfg=1.0)
    total = 0.0

    def decide(s, x, probed, ctx, state):
        nonlocal total
        now, before = tiny.normed(0, x, ctx), getattr(state, "modulated", None)
        state.modulated = now
        if before is None:
            return False
        d = change(now, before)
        total += abs(0.5 * d * d + d)
        if total < 0.9:
            return True
        total = 0.0
        return False

    _, policy = run(tiny, plan, *start)
    assert sequence(tiny, plan, start, decide) == policy.skipped[0].tolist()


@pytest.mark.parametrize("name", ["first branches", "both ends"])  # FBCache, and DBCache, whose last ones are computed
def test_first_block_cache_in_its_own_words(tiny, start, name):
    plan = RULES[name].with_protocol(cfg=1.0)
    limit, most = plan.rule.threshold, plan.rule.most

    def decide(s, x, probed, ctx, state):
        computed = [k for k, seen in enumerate(state.seen) if seen.computed]
        close = bool(computed) and change(probed - x, state.seen[computed[-1]].added) < limit
        return close and (most is None or s - computed[-1] <= most)

    _, policy = run(tiny, plan, *start)
    found = policy.skipped[0].tolist()
    assert sequence(tiny, plan, start, decide) == found and 0 < sum(found) < STEPS - 1


def test_easycache_in_its_own_words(tiny, start):
    plan = RULES["rate"].with_protocol(cfg=1.0)
    total = 0.0

    def decide(s, x, probed, ctx, state):
        nonlocal total
        rates = [
            float((b.out - a.out).abs().mean() / (b.x - a.x).abs().mean())
            for a, b in zip(state.seen, state.seen[1:], strict=False)
            if b.computed
        ]
        if not rates:
            return False
        last = state.seen[-1]
        total += rates[-1] * float((x - last.x).abs().mean() / last.out.abs().mean())
        if s >= 2 and total < 0.5:
            return True
        total = 0.0
        return False

    _, policy = run(tiny, plan, *start)
    assert sequence(tiny, plan, start, decide) == policy.skipped[0].tolist()


@given(st.data())
def test_outputs_of_every_sequence(data):
    """Against a list for every sequence."""
    batch, count = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    outputs, plain = Outputs(count), [[] for _ in range(batch)]
    g = torch.Generator().manual_seed(0)
    for s in range(data.draw(st.integers(1, 6))):
        own = list(range(batch)) if s == 0 else data.draw(st.sets(st.integers(0, batch - 1), min_size=1))
        rows = torch.tensor(sorted(own))
        values = torch.randn(len(rows), 2, 3, generator=g, dtype=torch.float64)
        outputs.keep(s, rows, values.clone(), batch)
        for r, v in zip(rows.tolist(), values, strict=True):
            plain[r] = [(s, v), *plain[r]][:count]
        found = outputs.take(s + 1, torch.arange(batch))
        for r in range(batch):
            weights = taylor(s + 1, [k for k, _ in plain[r]], count - 1)
            expected = sum(w * v for w, (_, v) in zip(weights, plain[r], strict=True))
            torch.testing.assert_close(found[r], expected)


def test_speca_verifies(tiny, start):
    """With a threshold that every forecast fails, the step after the first verified one is computed; with one that none
    fails, only the longest run stops forecasts."""
    strict = Rule("verified", 0.0, 4, 1, parameters={"least": 2, "decay": 1.0, "floor": 0.0})
    _, policy = run(tiny, ruled(strict, 0, TINY_BRANCHES - BLOCK, 3), *start)
    assert policy.skipped[0].tolist() == [False] * 3 + [True, True, False, True, True]
    loose = Rule("verified", 1e9, 4, 1, parameters={"least": 2, "decay": 1.0, "floor": 0.0})
    _, policy = run(tiny, ruled(loose, 0, TINY_BRANCHES - BLOCK, 3), *start)
    assert policy.skipped[0].tolist() == [False] * 3 + [True] * 4 + [False]


def test_where_a_rule_cannot_run(tiny):
    plan = RULES["input"]
    for build in (Planned, Compiled):
        with pytest.raises(UserError, match="decides at run time"):
            build(tiny, plan)


def test_a_table_that_is_no_rules():
    actions = np.zeros((4, 6), np.uint8)
    with pytest.raises(UserError, match="one and the same span"):
        Plan(actions, protocol(4), rule=Rule("rate", 1.0))
    actions = np.zeros((4, 6), np.uint8)
    actions[1, 2:4] = actions[2, 1:4] = SPAN_DELTA
    with pytest.raises(UserError, match="one and the same span"):
        Plan(actions, protocol(4), rule=Rule("rate", 1.0))
    for wrong in ({"measure": "taste"}, {"threshold": -1.0}, {"threshold": float("nan")}, {"order": 4}, {"most": 0}):
        with pytest.raises(UserError):
            Rule(**{"measure": "rate", "threshold": 1.0} | wrong)


def test_files_of_rules(tmp_path):
    plan = RULES["verified"]
    plan.save(tmp_path / "p.safetensors")
    again = Plan.load(tmp_path / "p.safetensors")
    assert again.rule == plan.rule and np.array_equal(again.actions, plan.actions)
    data = (tmp_path / "p.safetensors").read_bytes()
    (tmp_path / "p.safetensors").write_bytes(data.replace(b'\\"threshold\\": 0.5', b'\\"threshold\\": 0.6'))
    with pytest.raises(UserError, match="checksum"):
        Plan.load(tmp_path / "p.safetensors")
