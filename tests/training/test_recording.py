"""What methods calibrate with, and the documented example of one."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from harmonica.execution import Run
from harmonica.methods import Task
from harmonica.plan import COMPUTE, REUSE, Origin, Plan, Protocol
from harmonica.training.starts import random_starts
from harmonica.utils import UserError

PROTOCOL = Protocol("pocket-dit", "ddim", 5, 1.3)
PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"


@pytest.fixture(scope="module")
def task():
    return Task(PROTOCOL, Origin("test"))


def test_a_recording_is_of_the_run_itself(task):
    found = task.record(2, ["latents", "outputs", "branches"])
    (start,) = random_starts(task, 2, 2, torch.Generator().manual_seed(0))
    seen = []
    full = Plan(np.zeros((5, len(task.layout.branches)), np.uint8), PROTOCOL)
    x0 = Run(task.backbone, full, start.model.labels)(start.noise, callback=lambda s, x: seen.append(x))
    assert torch.equal(found.latents[0], start.noise) and torch.equal(found.latents[1:], torch.stack(seen))
    assert torch.equal(found.latents[-1], x0) and found.outputs.shape[:2] == (5, 2)
    assert len(found.branches) == 5 and {len(row) for row in found.branches} == {len(task.layout.branches)}
    x, ctx = task.backbone.embed(torch.cat([start.noise] * 2), task.sampler.timesteps[0], start.model.condition)
    torch.testing.assert_close(found.branches[0][0], task.backbone.delta(0, x, ctx), rtol=1e-5, atol=1e-5)
    assert task.cost["generation_passes"] == 2


def test_outputs_can_be_reduced_and_plans_recorded(task):
    small = task.record(1, ["branches"], reduce=lambda x: x.mean((1, 2)))
    assert small.branches[3][2].shape == (2,) and not len(small.latents)
    actions = np.zeros((5, len(task.layout.branches)), np.uint8)
    actions[1::2] = REUSE
    under = task.record(1, ["latents"], Plan(actions, PROTOCOL)).latents
    assert not torch.equal(under[-1], task.record(1, ["latents"]).latents[-1])
    with pytest.raises(UserError, match="only an uncached run computes every branch"):
        task.record(1, ["branches"], Plan(actions, PROTOCOL))
    with pytest.raises(UserError, match="not 'weights'"):
        task.record(1, ["weights"])


def test_the_documented_method_is_short_and_does_what_it_says(task):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S).group(1)
    assert len(code.splitlines()) <= 60
    module = types.ModuleType("least_change")
    sys.modules["least_change"] = module  # where dataclasses look up annotations
    exec(code, vars(module))
    plan = module.LeastChange(target_cur=40, images=1).make(task)
    assert plan.cur == pytest.approx(40, abs=1) and (plan.actions[0] == COMPUTE).all()
    outputs = task.record(1).branches

    def change(s, i):
        return float((outputs[s][i] - outputs[s - 1][i]).norm() / outputs[s][i].norm())

    reused, computed = np.argwhere(plan.actions == REUSE), np.argwhere(plan.actions[1:] == COMPUTE) + [1, 0]
    assert max(change(*x) for x in reused) <= min(change(*x) for x in computed)
