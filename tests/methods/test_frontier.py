"""The rules of the later methods, each against its own words or against brute force."""

import itertools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.chebbooster import ChebBooster
from baselines.dpcache import cheapest, segment_costs
from baselines.ecad import ECAD, OVER
from baselines.foca import FoCa
from baselines.hicache import HiCache
from baselines.l2p import L2P, least_squares
from baselines.magcache import skipped
from baselines.pab import PAB
from baselines.procache import ProCache, intervals
from baselines.smoothcache import SmoothCache
from baselines.taylorseer import TaylorSeer
from baselines.teacache import TeaCache
from harmonica.cli import main
from harmonica.methods import Task, get_method, known_methods
from harmonica.methods.ruled import RuledMethod
from harmonica.plan import COMPUTE, REUSE, SPAN_FORECAST, Origin, Protocol, macs, macs_at

SCHEDULED = {
    "TaylorSeer": TaylorSeer(order=2), "HiCache": HiCache(), "FoCa": FoCa(), "ChebBooster": ChebBooster(history=4),
    "ChebBooster 2": ChebBooster(history=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return Task(Protocol("pocket-dit", "ddim", 8, 1.3), Origin("test"))


@st.composite
def schedules(draw):
    """Computed steps, in order, and a later step."""
    gaps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    full = np.cumsum([0, *gaps]).tolist()
    return full, full[-1] + draw(st.integers(1, 6))


@pytest.mark.parametrize("method", SCHEDULED.values(), ids=SCHEDULED)
@given(case=schedules())
def test_what_does_not_change_is_forecast_exactly(method, case):
    full, at = case
    weights = np.asarray(method.weigh(at, full))
    assert len(weights) <= 4 and weights.sum() == pytest.approx(1, abs=1e-6)


def test_chebbooster_keeps_away_from_a_pole():
    """Of its last four outputs at steps 0, 4, 9 and 10, at step 12 exactly: three are left."""
    weights = np.asarray(ChebBooster(target_cur=60, history=4).weigh(12, [0, 4, 9, 10]))
    assert len(weights) == 3 and weights == pytest.approx(ChebBooster(target_cur=60).weigh(12, [4, 9, 10]))


@pytest.mark.parametrize("name", ["TaylorSeer", "FoCa", "ChebBooster 2"])
@given(case=schedules())
def test_lines_are_forecast_exactly(name, case):
    full, at = case
    weights = np.asarray(SCHEDULED[name].weigh(at, full))
    if len(weights) > 1:
        assert weights @ np.array(full[::-1][: len(weights)]) == pytest.approx(at, abs=1e-5)


def test_taylorseers_own_recursion():
    """D₀ = F, Dᵢ₊₁ = (Dᵢ − its last value) / gap; a sum of kⁱ/i! · Dᵢ."""
    rng = np.random.default_rng(0)
    full, values = [0, 1, 4, 7, 10], rng.standard_normal(5)
    factors: list[float] = []
    last = 0
    for s, f in zip(full, values, strict=True):
        now = [f]
        for i in range(min(2, len(factors))):
            now.append((now[i] - factors[i]) / (s - last))
        factors, last = now, s
    expected = factors[0] + 2 * factors[1] + 2**2 / 2 * factors[2]
    assert np.asarray(TaylorSeer(order=2).weigh(12, full)) @ values[::-1][:3] == pytest.approx(expected)


def test_hermite_terms_by_hand():
    """σ = ½, two steps after: H₁(1) = 2, H₂(1) = 2."""
    d0, d1, d2 = np.eye(3)[0], np.array([1, -1, 0]) / 3, np.array([1, -2, 1]) / 9
    expected = d0 + 0.5 * 2 * d1 + 0.25 * 2 / 2 * d2
    np.testing.assert_allclose(HiCache().weigh(9, [1, 4, 7]), expected)


def test_barycentric_weights_by_hand():
    """Nodes −1, 0, 1 and a point at 5/3: weights ½, −1, ½ over the distances 8/3, 5/3, 2/3."""
    terms = np.array([0.5 / (2 / 3), -1 / (5 / 3), 0.5 / (8 / 3)])
    np.testing.assert_allclose(ChebBooster().weigh(9, [1, 4, 7]), terms / terms.sum())
    assert ChebBooster(first=2, last=1).full(9, 3) == [0, 1, 2, 5, 8]
    assert ChebBooster().full(50, 3) == TaylorSeer().full(50, 3)  # 18 of 50, as in the paper


def test_heuns_rule_by_hand():
    """Two steps after the full step 4, with 1 before it: the prediction at 5 enters the history."""
    a, b = np.eye(2)[::-1]  # of steps 4 and 1, as weights of (1, 4)
    slope = (a - b) / 3
    between = [b + slope, b + 2 * slope]  # steps 2 and 3, a line where there is no older output
    first = a + 0.5 * (slope + a - between[1])
    second = a + 1.0 * (slope + first - a)
    np.testing.assert_allclose(FoCa().weigh(6, [1, 4]), second[::-1])


@given(st.integers(0, 100))
def test_least_squares_of_features(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, 40))
    sources, at = [4, 2, 1], 5
    free = least_squares(x @ x.T, at, sources, constrained=False)
    np.testing.assert_allclose(free, np.linalg.lstsq(x[sources].T, x[at], rcond=None)[0], atol=1e-4)
    bound = least_squares(x @ x.T, at, sources, constrained=True)
    assert bound.sum() == pytest.approx(1)
    error = np.linalg.norm(bound @ x[sources] - x[at])
    for _ in range(20):
        other = bound + np.array([1, -1, 0]) * rng.normal() / 10 + np.array([0, 1, -1]) * rng.normal() / 10
        assert error <= np.linalg.norm(other @ x[sources] - x[at]) + 1e-9


@given(st.integers(0, 50), st.integers(3, 8))
def test_the_cheapest_steps_are_the_cheapest(seed, count):
    """Against all choices of so many steps."""
    h = np.cumsum(np.random.default_rng(seed).standard_normal((8, 4)), 0)
    cost = segment_costs(h)
    keys, total = cheapest(cost, count)
    assert len(keys) == count and keys[:3] == [0, 1, 2]

    def of(ks):
        return sum(cost[a, b, c] for a, b, c in zip(ks, ks[1:], [*ks[2:], 8], strict=False))

    every = [of(ks) for ks in itertools.combinations(range(8), count) if ks[:3] == (0, 1, 2)]
    assert total == pytest.approx(min(every)) and of(keys) == pytest.approx(total)


def test_a_segments_cost_by_hand():
    h = np.array([[0.0], [1.0], [5.0], [4.0]])
    assert segment_costs(h)[0, 1, 4] == pytest.approx(abs(5 - 2) + abs(4 - 3))


def test_errors_of_magnitudes_add_up():
    """Errors .1, .21, …: a threshold of .25 lets one be skipped, of .35 two; never more than K."""
    ratios = np.array([1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1])
    assert skipped(ratios, 0.25, 3, 1) == [1, 3, 5]
    assert skipped(ratios, 0.35, 3, 1) == [1, 2, 4, 5]
    assert skipped(np.ones(7), 0.35, 2, 1) == [1, 2, 4, 5]


@given(st.integers(2, 40), st.data())
def test_intervals_never_grow(steps, data):
    count = data.draw(st.integers(1, steps))
    own = intervals(steps, count, 5, np.random.default_rng(0))
    assert sum(own) == steps and len(own) == count and list(own) == sorted(own, reverse=True)
    assert max(own) <= max(5, -(-steps // count))


def test_attention_is_broadcast_in_the_middle():
    task = Task(Protocol("pocket-pixart", "dpmsolver++", 20, 5.0), Origin("test"))
    plan = PAB(attention=2).make(task)
    kinds = np.array(task.layout.kinds)
    assert not plan.actions[[0, 1, 18, 19]].any() and not plan.actions[:, kinds == "mlp"].any()
    own, cross = (plan.actions[2:18, kinds == k][:, 0] for k in ("attention", "cross-attention"))
    assert own.tolist() == [0, 1] * 8 and cross.tolist() == ([0] + [1] * 5) * 2 + [0, 1, 1, 1]


def test_smoothcache_reuses_what_changes_least(task):
    found = [SmoothCache(alpha=alpha, images=1).make(task).cur for alpha in (1e-6, 0.4, 10.0)]
    assert found[0] == 0 < found[1] < found[2] == pytest.approx(75)  # three of four steps


def test_smoothcache_is_its_rule(task):
    """Branches of a kind are reused k ≤ 3 steps after the last that was computed if they changed by at most α since."""
    alpha, kinds = 0.4, np.array(task.layout.kinds)
    plan, outputs = SmoothCache(alpha=alpha, images=1).make(task), task.record(1).branches
    seen = set()
    for kind in ("attention", "mlp"):
        own, last = np.flatnonzero(kinds == kind), 0
        for s in range(1, task.steps):
            now, then = (torch.stack([outputs[at][i] for i in own]).flatten(1) for at in (s, last))
            change = ((now - then).abs().sum(1) / now.abs().sum(1)).mean()
            reused = s - last <= 3 and float(change) <= alpha
            assert set(plan.actions[s, own]) == {REUSE if reused else COMPUTE}
            seen.add((reused, s - last > 3))
            last = last if reused else s
    assert {(True, False), (False, False)} <= seen


def test_masks_are_judged_and_keep_their_budget(task):
    budget = macs_at(50, 8, task.layout)
    plan = ProCache(target_cur=50, images=1, lists=4).make(task)
    assert (plan.actions == plan.actions[:, :1]).all() and macs(plan, task.layout) == pytest.approx(budget, rel=0.1)
    assert sum(plan.origin.notes["intervals"]) == 8
    evolved = ECAD(target_cur=50, images=1, population=8, generations=2).make(task)
    assert macs(evolved, task.layout) <= OVER * budget and set(np.unique(evolved.actions)) <= {COMPUTE, REUSE}


def test_features_that_are_learned_from_are_recorded(task):
    for lite in (True, False):
        plan = L2P(interval=3, images=1, lite=lite).make(task)
        assert (plan.actions == SPAN_FORECAST).any() == lite
        np.testing.assert_allclose(plan.weights.sum(2)[plan.actions.any(1), 0], 1, atol=1e-4)
    recorded = task.record(1, ["inputs", "streams", "branches"])
    assert recorded.inputs.shape[:2] == (8, 2) and recorded.streams.shape[:3] == (8, 2, 2)
    added = recorded.streams[0, 1] - recorded.streams[0, 0]
    start = task.backbone.embed(torch.zeros(2, *task.backbone.latent_shape), task.sampler.timesteps[0],
                                task.backbone.condition(torch.zeros(2, dtype=torch.long)))  # fmt: skip
    assert added.shape == start[0].shape and added.norm() > 0


@pytest.mark.parametrize("name", [n for n in sorted(known_methods()) if issubclass(get_method(n), RuledMethod)])
def test_rules_meet_their_budget_on_average(task, name):
    target = 45 if name == "speca" else 30  # SpeCa verifies nothing before three forecasts
    plan = get_method(name)(target_cur=target, images=2).make(task)
    assert plan.rule and abs(plan.origin.notes["CUR"] - target) < 10  # two images of eight steps are few
    assert plan.origin.notes["threshold"] == plan.rule.threshold
    given_threshold = get_method(name)(threshold=0.2, images=1).make(task)
    assert given_threshold.rule.threshold == 0.2


def test_the_documented_forecaster(task):
    page = (Path(__file__).parents[2] / "docs" / "add_a_method.md").read_text("utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "class Line" in c)
    module = types.ModuleType("line")
    sys.modules["line"] = module  # where dataclasses look up annotations
    exec(code, vars(module))
    assert vars(module)["Line"](interval=3).weigh(9, [0, 1, 4, 7]).tolist() == pytest.approx([5 / 3, -2 / 3])
    assert vars(module)["Line"](target_cur=50).make(task).cur == pytest.approx(50, abs=13)


def test_a_rule_is_shown(task, tmp_path, capsys):
    get_method("fbcache")(threshold=0.2, images=1).make(task).save(tmp_path / "p.safetensors")
    assert main(["show", str(tmp_path / "p.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "a rule decides at run time" in out and "rule: measure = first branches, threshold = 0.2" in out


def test_how_well_teacaches_polynomial_fits_is_said(task):
    assert TeaCache(target_cur=30, images=2).make(task).origin.notes["r2"] > 0.5
