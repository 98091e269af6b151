"""Steps that take the whole stream from the cache: nothing is embedded, and nothing changes."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harmonica.execution import Batch, run
from harmonica.execution.policy import PlannedStep
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import SPAN_FORECAST, SPAN_OUTPUT, Plan, Protocol, macs

MODELS = ["pocket-dit", "pocket-pixart", "pocket-uvit"]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return load_backbone(get_model(request.param), "float32")


def whole(model, action: int, cfg: float = 1.5) -> Plan:
    """Two computed steps, two that take the stream after all branches from them."""
    actions = np.zeros((4, len(model.layout.branches)), np.uint8)
    actions[2:] = action
    weights = np.zeros((4, 1, 2), np.float32)
    weights[2:, 0] = 2, -1
    plan_of = Protocol(model.layout.name, "dpmsolver++", 4, cfg)
    return Plan(actions, plan_of, weights=weights if action == SPAN_FORECAST else None)


@pytest.mark.parametrize("action", [SPAN_OUTPUT, SPAN_FORECAST])
def test_images_are_those_of_a_stream_that_is_embedded(model, action, monkeypatch):
    plan, start = whole(model, action), Batch.of(model, 0, 0, 2)
    got = run(model, plan, start)
    monkeypatch.setattr(PlannedStep, "skips_stream", False)
    assert torch.equal(got, run(model, plan, start))


def test_macs_are_those_that_torch_counts(model):
    plan, start = whole(model, SPAN_FORECAST, cfg=1.0), Batch.of(model, 0, 0, 1)
    with FlopCounterMode(display=False) as counter:
        run(model, plan, start)
    sums = 2 * 2 * model.layout.stream_elements  # no products for torch
    assert counter.get_total_flops() == 2 * (macs(plan, model.layout) - sums)


def test_a_branch_at_the_end_needs_the_stream(model):
    plan = whole(model, SPAN_OUTPUT)
    actions = plan.actions.copy()
    actions[2:, -1] = 0
    nearly = Plan(actions, plan.protocol)
    saved = macs(nearly, model.layout) - macs(plan, model.layout)
    assert saved == 2 * (model.layout.branch_macs[-1] + model.layout.stream_macs)
