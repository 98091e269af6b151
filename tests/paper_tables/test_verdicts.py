"""Verdicts on the paper's claims, from rows whose differences are known."""

import numpy as np
import pandas as pd
import pytest

from harmonica.experiments import Experiment, Row
from paper_tables.measured import Measured
from paper_tables.verdicts import verdict, verdicts

NOISE = np.random.default_rng(0).standard_normal(50)
METHODS = {
    "Full": "full",
    "HarmoniCa": "harmonica",
    "Random plan": "random_plan",
    "SDT + L_LTC": "sdt_ltc",
    "FORA": "fora",
}


def row(fid: float, noise=0.0, uncached: float = 0.1) -> dict:
    return {"FID": fid, "FID_uncached": uncached, "blocks": {"FID": NOISE + noise, "FID_uncached": 0.01 * NOISE}}


def said(methods: list[str], macs: list[float], found: list[dict]) -> list[str]:
    rows = [Row("6", Experiment.of("pocket-dit", "ddim", 6, 1.5, METHODS[m], {}), ()) for m in methods]
    metrics = {"6": {r.slug: m for r, m in zip(rows, found, strict=True)}}
    measured = Measured("pocket", rows, {}, "", routers={}, metrics=metrics, latency={}, images={})
    return list(verdicts(measured.lines, pd.DataFrame({"method": methods, "GMACs": macs}), measured))


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


@pytest.mark.parametrize(("cost", "said"), [(1.0, "yes"), (0.7, "yes"), (1.2, "undecided")])
def test_a_row_that_costs_more_is_no_better_for_being_closer(cost, said):
    assert verdict(-2, -1, -1, cost) == said
    assert verdict(1, 2, -1, 1 / cost) == said.replace("yes", "no")


def test_paired_rows_decide_what_single_intervals_do_not():
    """Noise that both rows share cancels; noise of their own does not."""
    own = 0.5 * np.random.default_rng(1).standard_normal(50)
    macs = [2.0, 1.0, 1.0, 1.01, 0.8]
    found = said(list(METHODS), macs, [row(3), row(3.1), row(3.2), row(3.11, own), row(2.9)])
    assert len(found) == 3
    assert "plain loss" in found[0] and "FID **undecided**" in found[0] and "equal MACs" not in found[0]
    assert "FID **no**" in found[1] and "not at equal MACs, HarmoniCa takes 1.25 of FORA's" in found[1]


def test_the_control_names_what_is_no_better_than_random_places():
    rows = [row(3), row(3, uncached=0.1), row(3, uncached=0.2), row(3, uncached=0.3), row(3, uncached=0.1)]
    found = said(list(METHODS), [2, 1, 1, 1, 1.2], rows)[-1]
    assert "reuses at random places: **yes**: HarmoniCa (-0.1, -0.1 … -0.1)" in found
    assert "**no**: SDT + L_LTC (+0.1" in found and "**undecided**: FORA" in found  # FORA takes more MACs here


def test_rows_that_are_not_there_and_rows_without_intervals():
    assert said(["Full", "HarmoniCa"], [1, 1], [row(1), row(2)]) == []
    assert said(["HarmoniCa", "FORA"], [1, 1], [{"FID": 1.0, "blocks": {}}, {"FID": 2.0, "blocks": {}}]) == []
