"""Search and fitted weights, on the pocket DiT at few steps."""

import numpy as np
import pytest
import torch

from harmonica.execution import Batch, run
from harmonica.experiments import Experiment
from harmonica.methods import Task
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import (
    COMPUTE,
    FORECAST,
    OUTPUT_FORECAST,
    SPAN_FORECAST,
    Origin,
    Plan,
    Protocol,
    all_compute,
    macs,
    macs_at,
)
from harmonica.plan.forecast import extrapolation
from harmonica.training.closed_loop import ClosedLoop, decibels
from harmonica.training.step_search import SearchSettings, searched
from harmonica.utils import UserError

STEPS = 8
PROTOCOL = Protocol("pocket-dit", "ddim", STEPS, 1.3)


@pytest.fixture(scope="module")
def task():
    return Task(PROTOCOL, Origin("test"))


def forecasting(task, keys) -> Plan:
    actions = np.full((STEPS, len(task.layout.branches)), SPAN_FORECAST, np.uint8)
    actions[list(keys)] = COMPUTE
    return Plan(actions, PROTOCOL, weights=extrapolation(actions, 1)[:, :1])


def test_the_uncached_plan_meets_its_own_target(task):
    loop, full = ClosedLoop(task, PROTOCOL, 2), all_compute(PROTOCOL, len(task.layout.branches))
    assert loop.value(full) == pytest.approx(120)  # no error at all
    assert ClosedLoop(task, PROTOCOL, 2, "converged").value(full) < 60


def test_latents_that_are_not_finite_judge_nothing(monkeypatch):
    own = Task(PROTOCOL, Origin("test"))
    with torch.no_grad():
        own.backbone.out.bias.fill_(float("inf"))
    with pytest.raises(UserError, match="latents of the uncached model are not finite"):
        ClosedLoop(own, PROTOCOL, 1)
    with pytest.raises(UserError, match="recorded latents are not finite"):
        own.record(1, ["latents"])


def test_weights_that_are_fitted_come_closer_on_other_images_too(task):
    plan = forecasting(task, (0, 2, 5))
    loop = ClosedLoop(task, PROTOCOL, 16, batch=8)
    fitted = loop.fit(plan, outputs=3, rounds=24, rate=0.02, name="test")
    assert (fitted.actions == plan.actions).all() and loop.value(fitted) > loop.value(plan) + 0.3
    other = ClosedLoop(Task(PROTOCOL, Origin("test", seed=1)), PROTOCOL, 16)
    assert other.value(fitted) > other.value(plan)


def test_a_plan_without_forecasts_has_no_weights_to_fit(task):
    full = all_compute(PROTOCOL, len(task.layout.branches))
    assert ClosedLoop(task, PROTOCOL, 2).fit(full, 3, 1, 0.1, "test") is full


def test_a_stochastic_sampler_has_no_converged_solution(task):
    with pytest.raises(UserError, match="adds noise"):
        ClosedLoop(task, Protocol("pocket-dit", "iddpm", STEPS, 1.3), 2, "converged")


def test_a_search_keeps_its_budget_says_what_it_cost_and_is_repeatable():
    few = {"evaluations": 8, "images": 2, "target_cur": 60}
    e = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few)
    plan, router = e.make()
    again, _ = e.make()
    assert router is None and (plan.actions == again.actions).all() and np.array_equal(plan.weights, again.weights)
    layout = e.model.layout
    assert abs(macs(plan, layout) - macs_at(60, STEPS, layout)) < 0.55 * layout.macs
    assert plan.origin.cost["training_s"] > 0 and plan.origin.hardware["precision"] == "float32"
    assert plan.origin.notes["keys"][0] == 0


def test_no_more_plans_than_asked_for(task):
    settings = SearchSettings(evaluations=12, images=1, target_cur=40, form="last", order=1)
    found = searched(task, settings, 3)
    assert len(found) == 3 and found[0].origin.notes["dB"] >= found[1].origin.notes["dB"] >= found[2].origin.notes["dB"]
    assert len({p.actions.tobytes() for p in found}) == 3


def test_outputs_alone_are_searched_and_trained_if_asked_for():
    few = {"evaluations": 4, "images": 2, "target_cur": 60, "form": "output", "order": 1}
    more = {"candidates": 1, "rounds": 4, "fit_images": 4, "batch": 2}
    e = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few)
    found, _ = e.make()
    assert set(np.unique(found.actions)) == {COMPUTE, OUTPUT_FORECAST} and "output only" in e.method.label()
    trained, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "harmonica_forecast", few | more).make()
    assert (trained.actions == found.actions).all() and not np.array_equal(trained.weights, found.weights)


def test_training_never_undoes_the_search():
    few = {"evaluations": 4, "images": 2, "target_cur": 60, "form": "branches", "order": 1}
    more = {"candidates": 1, "rounds": 4, "fit_images": 4, "batch": 2, "rate": 5.0}
    searched, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few).make()
    trained, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "harmonica_forecast", few | more).make()
    assert np.array_equal(trained.weights, searched.weights) and (trained.actions == searched.actions).all()


def test_a_training_goes_on_from_a_search():
    """The same plan as with a search of its own, whose cost it has; of a search with the same settings only."""
    few = {"evaluations": 6, "images": 2, "target_cur": 60, "form": "branches"}
    more = {"candidates": 3, "rounds": 4, "fit_images": 4, "batch": 2}
    source, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few).make()
    e = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "harmonica_forecast", few | more)
    alone, _ = e.make()
    going_on, _ = e.make({"step_search": source})
    assert np.array_equal(alone.weights, going_on.weights) and (alone.actions == going_on.actions).all()
    assert alone.origin.notes == going_on.origin.notes
    passes = alone.origin.cost["generation_passes"] if "generation_passes" in alone.origin.cost else None
    assert passes == going_on.origin.cost.get("generation_passes")
    assert going_on.origin.cost["training_s"] > source.origin.cost["training_s"] > 0
    older = source.with_origin(notes={k: v for k, v in source.origin.notes.items() if k != "following"})
    with pytest.raises(UserError, match="an earlier version searched"):
        e.make({"step_search": older})
    other, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few | {"target_cur": 50}).make()
    with pytest.raises(UserError, match="searched with target_cur = 50.*, not 60"):
        e.make({"step_search": other})


def test_a_search_that_judges_nothing(task, monkeypatch):
    monkeypatch.setattr(ClosedLoop, "value", lambda self, plan: -np.inf)
    with pytest.raises(UserError, match="no set of key steps that was judged"):
        searched(task, SearchSettings(evaluations=2, images=1, target_cur=40, form="last", order=1))


def test_a_fine_grid_of_another_sampler():
    few = {"evaluations": 2, "images": 2, "target_cur": 50, "solver": "dpmsolver++", "grid": 12, "against": "converged",
           "fit_images": 2, "rounds": 2, "candidates": 1, "form": "last", "order": 1}  # fmt: skip
    plan, _ = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "harmonica_forecast", few).make()
    assert (plan.protocol.sampler, plan.steps) == ("dpmsolver++", 12)
    layout = get_model("pocket-dit").layout
    assert macs(plan, layout) == pytest.approx(macs_at(50, STEPS, layout), rel=0.1)


@pytest.mark.extended
@pytest.mark.parametrize("cur", [60, 75])
def test_searched_keys_are_two_decibels_ahead_of_even_ones(cur):
    """At 20 steps and a guidance scale of 1.5, on images that were not searched with, than lines through branches; and
    one decibel than lines through the last block, which are better at 75 %. Both have no fewer MACs."""
    plan, _ = Experiment.of("pocket-dit", "ddim", 20, 1.5, "step_search", {"target_cur": cur}).make()
    backbone = load_backbone(get_model("pocket-dit"))
    start = Batch.of(backbone, 20, 0, 64)
    uncached = run(backbone, all_compute(plan.protocol, plan.branches), start)

    def quality(p: Plan) -> float:
        return float(decibels(run(backbone, p, start), uncached).mean())

    even: dict[int, float] = {}
    for action in (FORECAST, SPAN_FORECAST):
        for count in range(2, 20):
            actions = np.full((20, plan.branches), action, np.uint8)
            actions[np.linspace(0, 19, count).round().astype(int)] = COMPUTE
            rival = Plan(actions, plan.protocol, weights=extrapolation(actions, 1))
            if macs(rival, backbone.layout) >= macs(plan, backbone.layout):
                even[action] = quality(rival)
                break
    assert quality(plan) >= even[FORECAST] + 2 and quality(plan) >= even[SPAN_FORECAST] + 1


@pytest.mark.extended
def test_the_last_block_is_the_better_form_where_few_steps_are_computed():
    """Than the model's output, at three times fewer MACs, each with keys and an order of its own, on other images."""
    backbone = load_backbone(get_model("pocket-dit"))
    start, found = Batch.of(backbone, 20, 0, 64), {}
    for form in ("last", "output"):
        settings = {"target_cur": 200 / 3, "form": form}
        plan, _ = Experiment.of("pocket-dit", "ddim", 20, 1.3, "step_search", settings).make()
        uncached = run(backbone, all_compute(plan.protocol, plan.branches), start)
        found[form] = float(decibels(run(backbone, plan, start), uncached).mean())
    assert found["last"] > found["output"] + 1
