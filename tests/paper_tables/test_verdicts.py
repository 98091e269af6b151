"""Verdicts on the paper's claims, from rows whose differences are known."""

import numpy as np
import pandas as pd
import pytest

from harmonica.experiments import Experiment, Row
from paper_tables.measured import Measured
from paper_tables.verdicts import BY_MACS, of_cost, text, verdict, verdicts

NOISE = np.random.default_rng(0).standard_normal(50)
METHODS = {
    "Full": "full",
    "HarmoniCa": "harmonica",
    "Random plan": "random_plan",
    "SDT + L_LTC": "sdt_ltc",
    "FORA": "fora",
    "Learning-to-Cache": "learning_to_cache",
}


def row(fid: float, noise=0.0, uncached: float = 0.1) -> dict:
    return {"FID": fid, "FID_uncached": uncached, "blocks": {"FID": NOISE + noise, "FID_uncached": 0.01 * NOISE}}


def said(methods: list[str], macs: list[float], found: list[dict], settings: list[dict] | None = None) -> list[str]:
    settings = settings or [{}] * len(methods)
    rows = [
        Row("6", Experiment.of("pocket-dit", "ddim", 6, 1.5, METHODS[m], s), tuple(s.items()))
        for m, s in zip(methods, settings, strict=True)
    ]
    metrics = {"6": {r.slug: m for r, m in zip(rows, found, strict=True)}}
    measured = Measured("pocket", rows, {}, "", routers={}, metrics=metrics, latency={}, images={})
    named = ["".join(f"{k} {v}" for k, v in s.items() if k != "target_cur") for s in settings]
    block = pd.DataFrame({"method": methods, "GMACs": macs, "settings": named, "CUR": [20.0 / m for m in macs]})
    return text(verdicts(measured.lines, block, measured))


@pytest.mark.parametrize(
    ("low", "high", "sign", "said"),
    [
        (-2, -1, -1, "yes"),
        (1, 2, -1, "no"),
        (-1, 1, -1, "undecided"),
        (1, 2, 1, "yes"),
        (float("nan"), 1, 1, "undecided"),
    ],
)
def test_a_verdict(low, high, sign, said):
    assert verdict(low, high, sign) == said


@pytest.mark.parametrize(("cost", "said"), [(1.0, "yes"), (0.7, "yes"), (1.2, BY_MACS)])
def test_a_row_that_costs_more_is_no_better_for_being_closer(cost, said):
    assert verdict(-2, -1, -1, cost) == said
    assert verdict(1, 2, -1, 1 / cost) == said.replace("yes", "no")


def test_paired_rows_decide_what_single_intervals_do_not():
    """Noise that both rows share cancels; noise of their own does not."""
    own = 0.5 * np.random.default_rng(1).standard_normal(50)
    macs = [2.0, 1.0, 1.0, 1.01, 0.8]
    found = said(list(METHODS)[:5], macs, [row(3), row(3.1), row(3.2), row(3.11, own), row(2.9)])
    assert len(found) == 3
    assert "plain loss" in found[0] and "FID **undecided**" in found[0] and "equal MACs" not in found[0]
    assert "FID **no**" in found[1] and "; HarmoniCa takes 1.25 of the other's MACs" in found[1]


def test_the_control_names_what_is_no_better_than_random_places():
    rows = [row(3), row(3, uncached=0.1), row(3, uncached=0.2), row(3, uncached=0.3), row(3, uncached=0.1)]
    found = said(list(METHODS)[:5], [2, 1, 1, 1, 1.2], rows)[-1]
    assert "reuses at random places: **yes**: HarmoniCa (×0.5, 0.4" in found
    assert "**no**: SDT + L_LTC (×1.5" in found and f"**{BY_MACS}**: FORA" in found  # FORA takes more MACs here


def test_a_claim_is_of_rows_without_other_settings():
    """Learning-to-Cache with the image-error proxy is no rival of HarmoniCa's, but tests a claim of its own."""
    names = ["Full", "Learning-to-Cache", "Learning-to-Cache", "HarmoniCa"]
    found = said(names, [2, 1, 1, 1], [row(3), row(3.1), row(2), row(2.5)], [{}, {}, {"iepo": True}, {}])
    assert [line.split(": ")[0] for line in found] == [
        "- the image-error proxy helps training on noised images, too (Learning-to-Cache iepo True against "
        "Learning-to-Cache)", "- HarmoniCa beats Learning-to-Cache (HarmoniCa against Learning-to-Cache)",
    ]  # fmt: skip
    assert all("FID **yes**" in line for line in found)


def test_every_row_of_a_sweep_has_its_verdict():
    """Against the row of nearest MACs."""
    names = ["Full", "Learning-to-Cache", "Learning-to-Cache", "HarmoniCa", "HarmoniCa"]
    settings = [{}, {"target_cur": 10.0}, {"target_cur": 30.0}, {"target_cur": 10.0}, {"target_cur": 30.0}]
    found = said(names, [2, 1, 0.8, 1.01, 0.8], [row(3), row(1), row(2), row(1.5), row(1.9)], settings)
    assert len(found) == 2 and "HarmoniCa at a CUR of 20 %" in found[0] and "FID **no** (+0.5" in found[0]
    assert "HarmoniCa at a CUR of 25 %" in found[1] and "FID **yes** (-0.1" in found[1]


def test_training_costs_are_compared_over_seeds():
    """As a ratio; of single trainings nothing is said."""
    a, b = np.array([10.0, 10.5, 9.5]), np.array([20.0, 21.0, 19.0])
    (found,) = of_cost("A", "B", a, b)
    assert found.verdict == "yes" and found.gap == pytest.approx(0.5) and found.low < 0.5 < found.high < 1
    assert text([found])[0].startswith("- it trains in less time (A against B): training time **yes** (×0.5, ")
    assert not list(of_cost("A", "B", a[:1], b))


def test_rows_that_are_not_there_and_rows_without_intervals():
    assert said(["Full", "HarmoniCa"], [1, 1], [row(1), row(2)]) == []
    assert said(["HarmoniCa", "FORA"], [1, 1], [{"FID": 1.0, "blocks": {}}, {"FID": 2.0, "blocks": {}}]) == []
