import json

import numpy as np
import pytest
from conftest import TINY, origin, plans
from hypothesis import given

from harmonica.errors import UserError
from harmonica.models import MODELS
from harmonica.plan import COMPUTE, REUSE, Plan, all_compute, write_tables
from harmonica.router import Router
from harmonica.shape import dit_shape

SHAPE = dit_shape("tiny", TINY)


@given(plans())
def test_file_round_trip(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "p.safetensors"
    plan.save(path)
    again = Plan.load(path)
    assert (again.actions == plan.actions).all() and again.origin == plan.origin
    assert [p.name for p in path.parent.iterdir()] == ["p.safetensors"]


@given(plans())
def test_numbers_of_a_plan(plan):
    reused = plan.actions != COMPUTE
    assert plan.cur == pytest.approx(100 * reused.sum() / plan.actions.size)
    saved = (reused * SHAPE.branch_macs).sum()
    assert plan.macs(SHAPE) == pytest.approx(plan.steps * SHAPE.macs - saved)
    assert plan.theoretical_speedup(SHAPE) >= 1
    assert (plan.cache_bytes(SHAPE) == 0) == (not reused.any())


@given(plans())
def test_every_reuse_has_a_source_and_is_dropped_after_its_last(plan):
    """Walk the program with names in place of tensors."""
    held = set()
    for ops in plan.program:
        i = 0
        while i < plan.branches:
            op = ops[i]
            if op.store:
                held.add((REUSE, i, op.stop))
            if op.action != COMPUTE:
                assert (op.action, i, op.stop) in held
                if op.drop:
                    held.remove((op.action, i, op.stop))
            held |= set(op.closes)
            i = op.stop
    assert not held


def test_macs_of_dit_xl_2():
    """The paper's table 4 counts 118.6 GMACs for DiT-XL/2 at 256×256."""
    assert MODELS["dit-xl-2-256"].shape.macs / 1e9 == pytest.approx(118.6, rel=2e-3)
    assert len(MODELS["dit-xl-2-256"].shape.branches) == 56


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (np.ones((2, 4)), "first step of a plan must compute"),
        (np.zeros((3, 4)), "3 rows but says it is for 2"),
        (np.array([[0, 0], [0, 9]]), "action 9 is not known"),
        (np.zeros(4), "table of steps × branches"),
    ],
)
def test_tables_that_are_no_plan(actions, says):
    with pytest.raises(UserError, match=says):
        Plan(actions, origin(2))


def test_files_that_are_no_plan(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        Plan.load(path)
    all_compute(origin(4), 6).save(path)
    whole = path.read_bytes()
    for cut in (0, 7, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            Plan.load(path)
    Router(np.zeros((4, 6)), origin(4)).save(path)
    with pytest.raises(UserError, match="not a plan file"):
        Plan.load(path)
    write_tables(path, "harmonica-plan-1", {"other": np.zeros(3)}, origin(4))
    with pytest.raises(UserError, match="not a plan's"):
        Plan.load(path)


def test_damaged_origin(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "p.safetensors"
    bad = json.dumps({"model": "x", "steps": "four"})
    save_file({"actions": np.zeros((4, 6), np.uint8)}, path, {"format": "harmonica-plan-1", "origin": bad})
    with pytest.raises(UserError, match="origin in its metadata is damaged"):
        Plan.load(path)


def test_a_plan_for_something_else():
    plan = all_compute(origin(4), 6)
    fits = {"model": "pocket-dit", "sampler": "ddim", "steps": 4, "shape": SHAPE}
    plan.check_fits(**fits)
    for key, other in (("model", "dit-xl-2-256"), ("sampler", "dpm"), ("steps", 5)):
        with pytest.raises(UserError, match=f"not {other}"):
            plan.check_fits(**{**fits, key: other})
    with pytest.raises(UserError, match="branches"):
        plan.check_fits(**{**fits, "shape": MODELS["pocket-dit"].shape})


def test_router_to_plan():
    logits = np.array([[-5.0, -5.0], [5.0, -5.0], [-2.2, -2.1]])
    plan = Router(logits, origin(3)).plan(0.1)  # sigmoid(-2.2) = .0998, sigmoid(-2.1) = .109
    assert plan.actions.tolist() == [[0, 0], [0, 1], [1, 0]]
    with pytest.raises(UserError, match="threshold"):
        Router(logits, origin(3)).plan(1.5)
    with pytest.raises(UserError, match="not finite"):
        Router(np.full((3, 2), np.nan), origin(3))
