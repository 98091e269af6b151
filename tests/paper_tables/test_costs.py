"""What a training costs, as the plans record it, and the forms of λ that a training may use."""

import time

import numpy as np
import pytest
import torch

from harmonica.experiments import Experiment, Row
from harmonica.training import iepo
from harmonica.utils.memory import Peak
from paper_tables.measured import Measured
from paper_tables.tables import get_table


def made(name, **settings):
    given = {} if "target_cur" in settings else {"beta": 1e-4}
    e = Experiment.of("pocket-dit", "ddim", 6, 1.5, name, {**given, "rounds": 4, "batch": 2, **settings})
    return e, e.make()[0]


def test_peak_counts_what_was_freed_again():
    peak = Peak()
    x = torch.ones(30_000_000)  # 120 MB
    time.sleep(0.2)  # it is looked at every few milliseconds, on a busy machine less often
    del x
    assert 100 < peak.megabytes() < 400


@pytest.mark.parametrize(
    ("name", "settings", "passes"),
    [
        ("sdt_ltc", {}, 0),
        ("harmonica", {"refresh": 4}, 1),
        ("harmonica", {"refresh": 2}, 2),
        ("harmonica", {}, 1),
        ("harmonica", {"refresh": 4, "target_cur": 30, "off_target": True}, 1),  # β's guess and the rounds share it
        ("harmonica", {"refresh": 2, "compat": "paper"}, 2),
        ("learning_to_cache", {}, 0),
        ("learning_to_cache", {"iepo": True, "refresh": 2}, 2),
    ],
)
def test_passes_of_lambda(name, settings, passes):
    """Counted in whole trajectories: 6 steps take 1 + 15 + 6 evaluations as released, 15 + 6 in the paper's form."""
    e, plan = made(name, **settings)
    form = "paper" if settings.get("compat") == "paper" else "official"
    assert plan.origin.cost["generation_passes"] == pytest.approx(passes * iepo.passes(form, 6))
    assert iepo.passes("official", 6) == 22 / 6 and iepo.passes("paper", 6) == 21 / 6
    assert (len(plan.origin.notes.get("lambda_by_step", [])) == 6) == (name != "learning_to_cache" or bool(passes))


def test_table_of_costs():
    """HarmoniCa is the measure; a row without training has no line; the paper's numbers stand beside."""
    rows, plans = [], {}
    for name in ("learning_to_cache", "harmonica", "direct"):
        e, plan = made(name)
        rows.append(Row("6", e, ()))
        plans[e.slug] = plan
    full = Experiment.of("pocket-dit", "ddim", 6, 1.5, "full", {})
    rows.append(Row("6", full, ()))
    plans[full.slug] = full.make()[0]
    measured = Measured("pocket", rows, plans, "a machine", routers={}, metrics={}, latency={}, images={})
    about = get_table("table6")
    table = about.build(measured).set_index("method")
    assert list(table.index) == ["Learning-to-Cache", "HarmoniCa", "Direct optimisation of x0"]
    assert table.time["HarmoniCa"] == 1 and table.memory["HarmoniCa"] == 1
    assert table.training_images["Learning-to-Cache"] > 0 and table.paper_time_h["HarmoniCa"] == 1.63
    assert np.isnan(table.paper_time_h["Direct optimisation of x0"])
    text = about.markdown(table.reset_index(), measured)
    assert set(table.scale) == {"pocket"} and "paper GB/GPU" in text and "a machine" in text


def test_direct_optimisation_holds_all_steps_at_once():
    """The peak of gradients through the whole trajectory grows with its steps; that of SDT does not."""
    peaks = {}
    for name in ("sdt_ltc", "direct"):
        e = Experiment.of("pocket-dit", "ddim", 12, 1.5, name, {"beta": 1e-4, "rounds": 2, "batch": 16})
        peaks[name] = e.make()[0].origin.cost["peak_MB"]
    assert peaks["direct"] > 2.5 * peaks["sdt_ltc"] > 0
