"""Tables with compressions: published rows beside ours, and whether errors add up."""

import numpy as np
import pandas as pd
import pytest

from harmonica.compression import Compression, Layer
from harmonica.compression.costs import bit_operations
from harmonica.experiments.config import rows
from harmonica.models import get_model
from harmonica.plan import REUSE, Origin, Plan, Protocol, all_compute, macs
from paper_tables.compressed import beside, interaction
from paper_tables.measured import Measured
from paper_tables.tables import get_table

METHODS = ["full", {"harmonica": {"target_cur": 26.25}}, {"full": {"compression": "efficientdm"}},
           {"harmonica": {"target_cur": 26.25, "compression": "efficientdm"}},
           {"full": {"compression": {"efficientdm": {"weight_bits": 4}}}}]  # fmt: skip


def table_rows(model: str, methods=METHODS, **more):
    case = {"model": model, "steps": 20} | more
    return rows({"cases": {"20": case}, "sampler": "ddim", "cfg": 1.5, "seeds": [0], "methods": methods})


def test_the_papers_rows_are_beside_those_of_eight_bits():
    found = [get_table("table5").published(r.experiment, 20).get("FID") for r in table_rows("dit-xl-2-256")]
    assert found == [None, None, 6.10, 6.48, None]
    found = [
        get_table("table5").published(r.experiment, 20).get("FID")
        for r in table_rows("pixart-alpha-512", sampler="dpmsolver++", cfg=4.5)
    ]
    assert found == [None, None, 25.82, 26.15, None]
    on = ("w8a8", "efficientdm", "ptq4dit", "diff_pruning")
    methods = ["full", *({"full": {"compression": c}} for c in on), {"harmonica": {"target_cur": 37.5}}]
    methods.append({"full": {"compression": {"ptq4dit": {"weight_bits": 4}}}})
    published = [get_table("table4").published(r.experiment, 20) for r in table_rows("dit-xl-2-256", methods)]
    assert [p.get("FID") for p in published] == [3.52, None, 6.10, 71.82, 8.22, 4.88, None]
    assert published[2]["speedup"] == 1.11 and published[5]["speedup"] == 1.44


@pytest.mark.parametrize("table", ["table4", "table5"])
@pytest.mark.parametrize(
    ("model", "other", "steps"),
    [
        ("dit-xl-2-256", {"cfg": 4.0}, 20),
        ("dit-xl-2-256", {"sampler": "dpmsolver++"}, 20),
        ("dit-xl-2-256", {"steps": 50}, 50),
        ("dit-xl-2-512", {}, 20),
        ("pixart-alpha-256", {"sampler": "ddim"}, 20),
        ("pixart-sigma-512", {"sampler": "dpmsolver++", "cfg": 4.5}, 20),
        ("pocket-dit", {"sampler": "dpmsolver++"}, 20),
        ("pocket-uvit", {"sampler": "dpm-solver"}, 20),
    ],
)
def test_no_published_number_beside_another_protocol(table, model, other, steps):
    found = table_rows(model, METHODS, **other)
    assert all(get_table(table).published(r.experiment, steps) == {} for r in found)


def test_a_failed_run_that_was_printed_is_not_alone():
    (text,) = beside("PTQ4DiT")
    assert "FID 71.82 for PTQ4DiT" in text and "W8A8 at 50 DDPM steps 5.45 (full precision 5.22; 10000 images" in text
    assert not beside("EfficientDM")


def measured(values: dict[int, float], noise: float) -> Measured:
    """FID_uncached of each row, with random influences."""
    found = table_rows("pocket-dit")
    rng = np.random.default_rng(0)
    blocks = noise * rng.standard_normal((len(found), 50))
    metrics = {
        r.slug: {"FID_uncached": values[k], "blocks": {"FID_uncached": blocks[k].tolist()}} for k, r in enumerate(found)
    }
    return Measured("pocket", found, {}, "", {}, {"20": metrics}, {}, {})


@pytest.mark.parametrize(
    ("both", "says"), [(0.9, "more than their sum"), (0.3, "less than their sum"), (0.6, "undecided")]
)
def test_whether_errors_add_up(both, says):
    m = measured({0: 0.0, 1: 0.2, 2: 0.4, 3: both, 4: 1.0}, 0.1)
    table = get_table("table5")
    own = [table._interaction(r, m) for r in m.rows]
    assert [bool(x) for x in own] == [False, False, False, True, False]
    assert own[3]["interaction"] == pytest.approx(both - 0.6)
    (text,) = interaction(
        pd.DataFrame([{"case": 20, "method": r.experiment.label, **x} for r, x in zip(m.rows, own, strict=True)])
    )
    assert f"EfficientDM W8A8 + HarmoniCa: **{says}**" in text


def test_bit_operations_of_a_plan():
    """Products that are reused are not counted; what is not quantised has 32 bits."""
    layout, p = get_model("pocket-dit").layout, Protocol("pocket-dit", "ddim", 2, 1.3)
    layers = {f"up.{k}": Layer(128, 8, 8, "static", 16 * 128 * 512.0) for k in range(8)}
    layers["to_gates"] = Layer(128, 8)
    c = Compression(p, Origin("x"), layers)
    plan = all_compute(p, 16)
    one = 16 * 128 * 512 * (32 * 32 - 8 * 8)
    assert bit_operations(plan, layout, None) == macs(plan, layout) * 1024
    assert bit_operations(plan, layout, c) == pytest.approx(macs(plan, layout) * 1024 - 2 * 8 * one)
    actions = np.zeros((2, 16), np.uint8)
    actions[1, 1] = REUSE  # an MLP
    reused = Plan(actions, p)
    assert bit_operations(reused, layout, c) == pytest.approx(macs(reused, layout) * 1024 - 15 * one)
