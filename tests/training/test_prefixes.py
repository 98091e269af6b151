"""A trajectory that continues another is a whole one, to the bit."""

import numpy as np
import pytest
import torch

from harmonica.execution import Run
from harmonica.experiments import Experiment
from harmonica.methods import Task
from harmonica.plan import COMPUTE, FORECAST, OUTPUT_FORECAST, REUSE, SPAN_FORECAST, Origin, Plan, Protocol
from harmonica.plan.forecast import extrapolation
from harmonica.training import prefixes
from harmonica.training.prefixes import BYTES, Prefixes
from harmonica.training.starts import random_starts

STEPS = 8
MODELS = {"pocket-dit": "ddim", "pocket-uvit": "dpm-solver", "pocket-pixart": "dpmsolver++"}


def prefixes_of(model: str, nbytes: float = BYTES) -> tuple[Protocol, int, Prefixes]:
    protocol = Protocol(model, MODELS[model], STEPS, 1.3)
    task = Task(protocol, Origin("test"))
    (start,) = random_starts(task, 2, 2, torch.Generator().manual_seed(0))
    return protocol, len(task.layout.branches), Prefixes(task.backbone, start, nbytes)


def plan_of(protocol: Protocol, branches: int, form: int, order: int, keys: list[int]) -> Plan:
    actions = np.full((STEPS, branches), form, np.uint8)
    actions[keys] = COMPUTE
    if form == REUSE:
        return Plan(actions, protocol)
    weights = extrapolation(actions, order)[:, :1]
    weights[keys] = 0
    return Plan(actions, protocol, weights=weights)


def whole(known: Prefixes, plan: Plan) -> torch.Tensor:
    return Run(known.backbone, plan, known.start.model.labels)(known.start.noise, known.start.seeds)


@pytest.mark.parametrize("model", MODELS)
def test_random_plans_one_after_another(model):
    protocol, branches, known = prefixes_of(model)
    rng = np.random.default_rng(0)
    keys, plans = [0, 3, 5], 20
    for _ in range(plans):
        far = rng.random() < 0.3
        moved = sorted({0, int(rng.integers(1, 4))} if far else {0, keys[1], int(rng.integers(1, STEPS))})
        form, order = int(rng.choice([REUSE, FORECAST, SPAN_FORECAST, OUTPUT_FORECAST])), int(rng.integers(3))
        plan = plan_of(protocol, branches, form, order, moved)
        assert torch.equal(known.latents(plan), whole(known, plan))
        keys = moved if len(moved) == 3 else keys
    assert plans < known.steps_run < plans * STEPS - plans  # less than whole runs


def test_a_moved_key_runs_from_where_it_was():
    protocol, branches, known = prefixes_of("pocket-dit")
    known.latents(plan_of(protocol, branches, FORECAST, 1, [0, 2, 4, 6]))
    assert known.steps_run == STEPS
    known.latents(plan_of(protocol, branches, FORECAST, 1, [0, 2, 4, 7]))
    assert known.steps_run == STEPS + 2
    known.latents(plan_of(protocol, branches, FORECAST, 2, [0, 2, 4, 7]))  # it takes three outputs, two are there
    assert known.steps_run == STEPS + 2 + 4


def test_plans_that_mix_computed_and_reused_branches():
    protocol, branches, known = prefixes_of("pocket-dit")
    rng = np.random.default_rng(1)
    actions = np.zeros((STEPS, branches), np.uint8)
    for _ in range(16):
        actions = actions.copy()
        actions[int(rng.integers(1, STEPS)), rng.random(branches) < 0.5] ^= REUSE
        plan = Plan(actions, protocol)
        assert torch.equal(known.latents(plan), whole(known, plan))
    assert known.steps_run < 13 * STEPS


def test_no_more_is_remembered_than_it_may_hold():
    protocol, branches, known = prefixes_of("pocket-dit", nbytes=200_000)
    for keys in ([0, 2, 4, 6], [0, 2, 4, 7], [0, 2, 5, 7]):
        plan = plan_of(protocol, branches, FORECAST, 1, keys)
        assert torch.equal(known.latents(plan), whole(known, plan))
    assert known.steps_run > 2 * STEPS and len(known._paths) == 1


@pytest.mark.parametrize("method", ["faster_diffusion", "teacache"])
def test_plans_whose_steps_are_not_run_one_by_one(method):
    protocol, _, known = prefixes_of("pocket-uvit")
    plan, _ = Experiment.of("pocket-uvit", "dpm-solver", STEPS, 1.3, method, {}).make()
    for _ in range(2):
        assert torch.equal(known.latents(plan), whole(known, plan))
    assert known.steps_run == 2 * STEPS
    assert protocol == plan.protocol or plan.protocol.prior_noise


def test_a_search_finds_what_whole_trajectories_find(monkeypatch):
    few = {"evaluations": 24, "images": 2, "target_cur": 50, "form": "branches", "order": 1}
    e = Experiment.of("pocket-dit", "ddim", STEPS, 1.3, "step_search", few)
    plan, _ = e.make()
    monkeypatch.setattr(prefixes, "KEPT", 0)
    again, _ = e.make()
    assert plan.origin.notes == again.origin.notes and np.array_equal(plan.weights, again.weights)
