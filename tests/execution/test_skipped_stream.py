"""Steps that take the whole stream, or the model's output, from the cache: nothing is embedded, and nothing changes."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harmonica.execution import Batch, Guided, Plain, Planned, run
from harmonica.execution.policy import PlannedStep
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import FORECASTS, OUTPUT_FORECAST, SPAN_FORECAST, SPAN_OUTPUT, Plan, Protocol, cache_bytes, macs

MODELS = ["pocket-dit", "pocket-pixart", "pocket-uvit"]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return load_backbone(get_model(request.param), "float32")


def whole(model, action: int, cfg: float = 1.5) -> Plan:
    """Two computed steps, two that take the stream after all branches, or the output, from them."""
    actions = np.zeros((4, len(model.layout.branches)), np.uint8)
    actions[2:] = action
    weights = np.zeros((4, 1, 2), np.float32)
    weights[2:, 0] = 2, -1
    plan_of = Protocol(model.layout.name, "dpmsolver++", 4, cfg)
    return Plan(actions, plan_of, weights=weights if action in FORECASTS else None)


@pytest.mark.parametrize("action", [SPAN_OUTPUT, SPAN_FORECAST])
def test_images_are_those_of_a_stream_that_is_embedded(model, action, monkeypatch):
    plan, start = whole(model, action), Batch.of(model, 0, 0, 2)
    got = run(model, plan, start)
    monkeypatch.setattr(PlannedStep, "skips_stream", False)
    assert torch.equal(got, run(model, plan, start))


@pytest.mark.parametrize("action", [SPAN_FORECAST, OUTPUT_FORECAST])
def test_macs_are_those_that_torch_counts(model, action):
    plan, start = whole(model, action, cfg=1.0), Batch.of(model, 0, 0, 1)
    with FlopCounterMode(display=False) as counter:
        run(model, plan, start)
    of_output = model.layout.output_elements
    sums = 2 * 2 * (of_output if action == OUTPUT_FORECAST else model.layout.stream_elements)  # no products for torch
    assert counter.get_total_flops() == 2 * (macs(plan, model.layout) - sums)


def test_a_branch_at_the_end_needs_the_stream(model):
    plan = whole(model, SPAN_OUTPUT)
    actions = plan.actions.copy()
    actions[2:, -1] = 0
    nearly = Plan(actions, plan.protocol)
    saved = macs(nearly, model.layout) - macs(plan, model.layout)
    assert saved == 2 * (model.layout.branch_macs[-1] + model.layout.stream_macs)


def test_outputs_are_all_that_a_plan_of_outputs_holds(model):
    """Two of them, of both guidance halves; the bytes measured are those predicted."""
    plan, start = whole(model, OUTPUT_FORECAST), Batch.of(model, 0, 0, 3)
    policy = Planned(model, plan)
    run(model, plan, start, policy)
    out = Plain(model).evaluate(model, start.noise, 500.0, model.condition(start.labels))
    assert policy.cache.peak_bytes == cache_bytes(plan, model.layout, batch=3) == 2 * 2 * out.nbytes


def test_outputs_of_other_forecasts_are_outputs(model):
    """A step that forecasts the stream runs the head, so a later one may take that output."""
    actions = whole(model, OUTPUT_FORECAST).actions.copy()
    actions[2] = SPAN_FORECAST
    weights = np.zeros((4, 1, 2), np.float32)
    weights[2, 0], weights[3, 0, 0] = (2, -1), 1  # the last output again
    plan = Plan(actions, Protocol(model.layout.name, "dpmsolver++", 4, 1.5), weights=weights)
    start, seen = Batch.of(model, 0, 0, 2), []
    policy = Planned(model, plan)
    guided = Guided.by(plan.protocol, model, start.labels)
    with torch.inference_mode():
        for s in range(4):
            seen.append(guided(start.noise, 500.0 - s, policy.at(s)))
    assert torch.equal(seen[3], seen[2]) and not torch.equal(seen[2], seen[1])
