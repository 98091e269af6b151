import json

import numpy as np
import pytest
from conftest import TINY, plans, protocol
from hypothesis import given

from harmonica.models import MODELS
from harmonica.plan import (
    COMPUTE,
    FORECAST,
    FORECASTS,
    OUTPUT_FORECAST,
    SPAN_FORECAST,
    SPAN_OUTPUT,
    Origin,
    Plan,
    Protocol,
    Router,
    all_compute,
    cache_bytes,
    macs,
)
from harmonica.plan.branches import dit_layout
from harmonica.plan.io import VERSION, write_tables
from harmonica.plan.origin import BY_HAND
from harmonica.plan.program import history
from harmonica.utils.errors import UserError

LAYOUT = dit_layout("tiny", TINY)


@given(plans())
def test_file_round_trip(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "p.safetensors"
    plan.save(path)
    again = Plan.load(path)
    assert (again.actions == plan.actions).all() and np.array_equal(again.weights, plan.weights)
    assert again.protocol == plan.protocol and again.origin == plan.origin
    assert [p.name for p in path.parent.iterdir()] == ["p.safetensors"]
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before


@given(plans())
def test_numbers_of_a_plan(plan):
    reused = plan.actions != COMPUTE
    assert plan.cur == pytest.approx(100 * reused.sum() / plan.actions.size)
    saved = (reused * LAYOUT.branch_macs).sum()
    for row in plan.actions:  # the stream is neither embedded nor gated where all of it is cached
        saved += (set(row) <= {SPAN_OUTPUT} or set(row) <= {SPAN_FORECAST}) * LAYOUT.stream_macs
        saved += (set(row) <= {OUTPUT_FORECAST}) * LAYOUT.other_macs  # and not even a head where the output is
    summed = 0
    for op in (op for ops in plan.program for op in ops.values() if op.action in FORECASTS):
        output = TINY["out_channels"] * TINY["sample_size"] ** 2
        summed += len(op.ages) * (output if op.action == OUTPUT_FORECAST else LAYOUT.stream_elements)
    assert macs(plan, LAYOUT) == pytest.approx(plan.steps * LAYOUT.macs - saved + summed)
    assert (cache_bytes(plan, LAYOUT) == 0) == (not reused.any())


@given(plans())
def test_every_output_that_is_taken_is_cached_and_dropped_after_its_last_use(plan):
    """Walk the program with names in place of tensors."""
    held = set()
    for ops in plan.program:
        i = 0
        while i < plan.branches:
            op = ops[i]
            if op.action != COMPUTE:
                assert op.ages and {(*history(op.action, i, op.stop), age) for age in op.ages} <= held
                held -= {(*history(op.action, i, op.stop), age) for age in op.drop}
            for keep in ((op.keep,) if op.keep else ()) + op.closes:
                mine = {key for key in held if key[:3] == keep.history}
                assert {key[3] for key in mine} == set(keep.older)
                held = held - mine | {(*keep.history, age + 1) for age in keep.older}
                held |= {(*keep.history, 0)} if keep.store else set()
            i = op.stop
    assert not held


def test_macs_of_dit_xl_2():
    """The paper's table 4 counts 118.6 GMACs for DiT-XL/2 at 256×256."""
    assert MODELS["dit-xl-2-256"].layout.macs / 1e9 == pytest.approx(118.6, rel=2e-3)
    assert len(MODELS["dit-xl-2-256"].layout.branches) == 56


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (np.ones((2, 4)), "first step of a plan must compute"),
        (np.zeros((3, 4)), "3 rows, but its protocol has 2 steps"),
        (np.array([[0, 0], [0, 9]]), "unknown action 9"),
        (np.zeros(4), "table of steps × branches"),
        (np.array([[0, 0], [0, 7]]), "step 1 forecasts the model's output, but not for all of its branches"),
    ],
)
def test_tables_that_are_no_plan(actions, says):
    with pytest.raises(UserError, match=says):
        Plan(actions, protocol(2))


FORECASTING = np.array([[0, 0], [0, 0], [FORECAST, 0], [SPAN_FORECAST] * 2], np.uint8)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (None, "forecasts branches, but has no weights"),
        (np.ones((4, 3, 2)), "4 steps × 1 or 2 branches × 1 to 4 outputs, got .4, 3, 2"),
        (np.ones((4, 1, 5)), "1 to 4 outputs"),
        (np.full((4, 1, 2), np.nan), "not finite"),
        (np.ones((4, 1, 3)), "step 2 forecasts branch 0 from more outputs than were computed"),
        (np.array([[[1, 1]], [[1, 1]], [[0, 0]], [[1, 1]]]), "step 2 forecasts branch 0 without a weight"),
    ],
)
def test_forecasts_that_are_no_plan(weights, says):
    with pytest.raises(UserError, match=says):
        Plan(FORECASTING, protocol(4), weights=weights)


def test_weights_where_nothing_is_forecast_are_none():
    assert Plan(np.zeros((4, 2)), protocol(4), weights=np.ones((4, 1, 2))).weights is None
    w = Plan(FORECASTING, protocol(4), weights=np.ones((4, 2, 2))).weights
    assert w.tolist() == [[[0, 0]] * 2] * 2 + [[[1, 1], [0, 0]], [[1, 1]] * 2]


def test_a_flipped_bit_is_seen(tmp_path):
    """Any bit of a plan or router file: refused in a sentence, or equal in content."""
    plan = Plan(FORECASTING, protocol(4), weights=np.ones((4, 1, 2), np.float32))
    for kind, made in (("plan", plan), ("router", Router(np.zeros((4, 2)), protocol(4)))):
        path = tmp_path / kind
        made.save(path)
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                again = type(made).load(path)
            except UserError as e:
                assert str(path) in str(e)
            else:
                assert again.protocol == made.protocol and again.origin == made.origin
                table = "actions" if kind == "plan" else "logits"
                assert np.array_equal(getattr(again, table), getattr(made, table))
                assert kind == "router" or np.array_equal(again.weights, made.weights)


def test_files_that_are_no_plan(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        Plan.load(path)
    all_compute(protocol(4), 6).save(path)
    complete = path.read_bytes()
    for cut in (0, 7, 40, len(complete) - 1):
        path.write_bytes(complete[:cut])
        with pytest.raises(UserError, match="not a complete safetensors file"):
            Plan.load(path)
    Router(np.zeros((4, 6)), protocol(4)).save(path)
    with pytest.raises(UserError, match="not a plan file"):
        Plan.load(path)
    write_tables(path, "plan", {"other": np.zeros(3)}, protocol(4), BY_HAND)
    with pytest.raises(UserError, match="not a plan's"):
        Plan.load(path)


def write_raw(path, kind, version, table, **about):
    """A plan or router file by hand, with any metadata."""
    from safetensors.numpy import save_file

    name = {"plan": "actions", "router": "logits"}[kind]
    texts = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in about.items()}
    save_file({name: table}, path, {"format": f"harmonica-{kind}-{version}", **texts})


VERSION_1 = {
    "model": "pocket-uvit", "sampler": "dpm-solver", "steps": 4, "cfg": 1.4, "method": "harmonica",
    "settings": {"target_cur": 30.0, "beta": None, "compat": "official"}, "seed": 3, "versions": {"torch": "2.9.0"},
    "cost": {"training_s": 12.5, "images": 0, "updates": 180}, "notes": {"threshold": 0.1, "beta": 2e-5},
    "prior_noise": 0.003,
}  # fmt: skip


def test_files_of_version_1(tmp_path):
    """One record held what is run and where it comes from; written again, a file is of today's version."""
    path, actions = tmp_path / "p.safetensors", np.array([[0, 0], [1, 0], [2, 2], [0, 1]], np.uint8)
    own = ("method", "settings", "seed", "versions", "cost", "notes")
    expected = Protocol("pocket-uvit", "dpm-solver", 4, 1.4, 0.003), Origin(**{k: VERSION_1[k] for k in own})
    write_raw(path, "plan", 1, actions, origin=VERSION_1)
    plan = Plan.load(path)
    assert (plan.actions == actions).all() and (plan.protocol, plan.origin) == expected
    plan.save(path)
    again = Plan.load(path)
    assert (again.actions == actions).all() and (again.protocol, again.origin) == expected
    assert b'"harmonica-plan-3"' in path.read_bytes()

    logits = np.linspace(-5, 5, 8, dtype=np.float32).reshape(4, 2)
    write_raw(path, "router", 1, logits, origin=VERSION_1)
    router = Router.load(path)
    assert (router.logits == logits).all() and (router.protocol, router.origin) == expected
    with pytest.raises(UserError, match="not a plan file: the format in its metadata is 'harmonica-router-1'"):
        Plan.load(path)


def test_a_short_record_of_version_1(tmp_path):
    """What the old writer could leave out takes its default."""
    path = tmp_path / "p.safetensors"
    few = {k: VERSION_1[k] for k in ("model", "sampler", "steps", "cfg", "method")}
    write_raw(path, "plan", 1, np.zeros((4, 2), np.uint8), origin=few)
    plan = Plan.load(path)
    assert plan.protocol == Protocol("pocket-uvit", "dpm-solver", 4, 1.4) and plan.origin == Origin("harmonica")


@pytest.mark.parametrize("kind, read, table", [
    ("plan", Plan.load, np.zeros((4, 2), np.uint8)), ("router", Router.load, np.zeros((4, 2), np.float32)),
])  # fmt: skip
def test_a_file_of_a_newer_version(tmp_path, kind, read, table):
    path = tmp_path / "p.safetensors"
    write_raw(path, kind, VERSION + 1, table, protocol={}, origin={}, more={})
    with pytest.raises(UserError, match=rf"format version {VERSION + 1}; this version .* reads up to {VERSION}$"):
        read(path)


PROTOCOL = {"model": "x", "sampler": "ddim", "steps": 4, "cfg": 1.5}


@pytest.mark.parametrize(
    ("version", "about"),
    [
        (1, {"origin": {"model": "x", "steps": "four"}}),
        (1, {"origin": VERSION_1 | {"steps": "four"}}),
        (1, {"origin": VERSION_1 | {"other": 1}}),
        (1, {"origin": {k: v for k, v in VERSION_1.items() if k != "method"}}),
        (1, {"origin": [1]}),
        (1, {}),
        (2, {"origin": {"method": "fora"}}),
        (2, {"protocol": PROTOCOL}),
        (2, {"protocol": PROTOCOL, "origin": "{cut"}),
        (2, {"protocol": PROTOCOL | {"steps": "four"}, "origin": {"method": "fora"}}),
        (2, {"protocol": PROTOCOL, "origin": {"method": "fora", "cost": {"training_s": "long"}}}),
        (2, {"protocol": PROTOCOL, "origin": VERSION_1}),
    ],
)
def test_damaged_origin(tmp_path, version, about):
    path = tmp_path / "p.safetensors"
    write_raw(path, "plan", version, np.zeros((4, 6), np.uint8), **about)
    with pytest.raises(UserError, match="origin in its metadata is damaged"):
        Plan.load(path)


def test_a_plan_for_something_else():
    plan = all_compute(protocol(4), 6)
    fits = {"model": "pocket-dit", "sampler": "ddim", "steps": 4, "layout": LAYOUT}
    plan.check_fits(**fits)
    for key, other in (("model", "dit-xl-2-256"), ("sampler", "dpm"), ("steps", 5)):
        with pytest.raises(UserError, match=f"not {other}"):
            plan.check_fits(**{**fits, key: other})
    with pytest.raises(UserError, match="branches"):
        plan.check_fits(**{**fits, "layout": MODELS["pocket-dit"].layout})


def test_router_to_plan():
    logits = np.array([[-5.0, -5.0], [5.0, -5.0], [-2.2, -2.1]])
    plan = Router(logits, protocol(3)).plan(0.1)  # sigmoid(-2.2) = .0998, sigmoid(-2.1) = .109
    assert plan.actions.tolist() == [[0, 0], [0, 1], [1, 0]]
    with pytest.raises(UserError, match="threshold"):
        Router(logits, protocol(3)).plan(1.5)
    with pytest.raises(UserError, match="not finite"):
        Router(np.full((3, 2), np.nan), protocol(3))
