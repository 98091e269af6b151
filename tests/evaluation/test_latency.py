"""Timings: which runs are timed, on what, and by what."""

from collections import Counter

import pytest

from harmonica.evaluation import latency
from harmonica.models import get_model
from harmonica.plan import REUSE, Plan, Protocol, all_compute
from harmonica.runtimes.compiled import Compiled


@pytest.fixture
def plans() -> dict[str, Plan]:
    full = all_compute(Protocol("pocket-dit", "ddim", 2, 1.3), len(get_model("pocket-dit").layout.branches))
    actions = full.actions.copy()
    actions[1] = REUSE
    return {"full": full, "reuse": Plan(actions, full.protocol)}


def test_bases_are_the_uncached_rows_in_other_precisions(plans, monkeypatch):
    ran, once = [], latency.once

    def counted(plan, backbone, *more):
        ran.append((next(iter(backbone.parameters())).dtype, plan is plans["full"]))
        return once(plan, backbone, *more)

    monkeypatch.setattr(latency, "once", counted)
    found = latency.measure(plans, batch=1, rounds=1, bases=["bfloat16", "float32"])
    assert list(found) == ["full", "reuse", "full@bfloat16", "full@float32"]
    assert found["full@float32"] == found["full"] != found["full@bfloat16"]
    # a run of one plan a model and precision is not counted
    times = {("torch.bfloat16", True): 2, ("torch.float32", False): 2, ("torch.float32", True): 1}
    assert Counter((str(dtype), full) for dtype, full in ran) == times


def test_compiled_steps_are_compiled_before_they_are_timed(plans):
    made: list[Compiled] = []

    def policy(backbone, plan):
        made.append(Compiled(backbone, plan, backend="eager"))
        return made[-1]

    found = latency.measure(plans, batch=1, rounds=2, policy=policy)
    assert [len(c._compiled) for c in made] == [1, 2] and all(len(r["rounds_s"]) == 2 for r in found.values())
