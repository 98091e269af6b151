import numpy as np
import pytest
from conftest import protocol
from hypothesis import given
from hypothesis import strategies as st

from harmonica.experiments import Experiment
from harmonica.plan import COMPUTE, FORECAST, FORECASTS, SPAN_FORECAST, Plan
from harmonica.plan.forecast import extrapolation, lagrange
from harmonica.utils import UserError


def forecast_of(plan: Plan, branch: int, values: np.ndarray) -> np.ndarray:
    """What a plan gives at every step for a branch whose computed outputs are `values` (steps,)."""
    outputs, out = [], np.zeros(plan.steps)
    for s, action in enumerate(plan.actions[:, branch]):
        if action == COMPUTE:
            outputs.insert(0, values[s])
            out[s] = values[s]
        else:
            weights = plan.weights[s, branch if plan.weights.shape[1] > 1 else 0]
            out[s] = sum(w * v for w, v in zip(weights, outputs, strict=False))
    return out


@given(st.integers(0, 3), st.data())
def test_a_forecast_of_degree_k_is_exact_on_polynomials_of_degree_k(order, data):
    """Wherever there are enough outputs; signs and step counts that are off by one die here."""
    steps = 12
    keys = data.draw(st.sets(st.integers(1, steps - 1), min_size=4).map(lambda x: sorted(x | {0})))
    coefficients = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=order + 1, max_size=order + 1)))
    values = np.polyval(coefficients, np.arange(steps) / 4)
    for kind in FORECASTS:
        actions = np.full((steps, 2), kind, np.uint8)
        actions[keys] = COMPUTE
        plan = Plan(actions, protocol(steps), weights=extrapolation(actions, order))
        enough = np.arange(steps) > keys[order]
        assert np.allclose(forecast_of(plan, 0, values)[enough], values[enough], atol=1e-3 * (1 + np.abs(values).max()))


@given(st.integers(1, 3), st.booleans(), st.integers(2, 6))
def test_taylorseer_is_exact_on_lines_and_is_its_own_recursion(order, lite, interval):
    plan, _ = Experiment.of("pocket-dit", "ddim", 20, 1.5, "taylorseer",
                            {"order": order, "lite": lite, "interval": interval}).make()  # fmt: skip
    rng = np.random.default_rng(0)
    line, noise = 2.0 - 0.25 * np.arange(20), rng.standard_normal(20)
    assert np.allclose(forecast_of(plan, 0, line)[2:], line[2:], atol=1e-4)
    factors, last, expected = [], None, []
    for s in range(20):
        if s < 2 or (s - 1) % interval == 0:
            now = [noise[s]]
            for old in factors[:order]:
                now.append((now[-1] - old) / (s - last))
            factors, last = now, s
            expected.append(noise[s])
        else:
            k = s - last
            expected.append(sum(f * k**i / [1, 1, 2, 6][i] for i, f in enumerate(factors)))
    assert np.allclose(forecast_of(plan, 0, noise), expected, atol=1e-3)
    assert set(np.unique(plan.actions)) <= {COMPUTE, SPAN_FORECAST if lite else FORECAST}


def test_weights_of_a_line():
    assert lagrange([5, 3], 6).tolist() == [1.5, -0.5]


def test_orders_may_differ_by_step_and_times_by_schedule():
    actions = np.full((4, 1), FORECAST, np.uint8)
    actions[:2] = COMPUTE
    w = extrapolation(actions, [0, 0, 0, 1], times=[10, 8, 7, 4])
    assert w[2, 0].tolist() == [1, 0] and w[3, 0].tolist() == [3, -2]


@pytest.mark.parametrize(("settings", "says"), [({"order": 4}, "order"), ({"interval": 0}, "interval")])
def test_settings_out_of_range(settings, says):
    with pytest.raises(UserError, match=says):
        Experiment.of("pocket-dit", "ddim", 20, 1.5, "taylorseer", settings)
