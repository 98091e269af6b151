"""Verdicts on the paper's claims, from rows whose differences are known."""

import numpy as np
import pytest

from paper_tables.verdicts import verdict, verdicts

NOISE = np.random.default_rng(0).standard_normal(50)


def row(fid: float, noise=0.0, uncached: float = 0.1) -> dict:
    return {"FID": fid, "FID_uncached": uncached, "blocks": {"FID": NOISE + noise, "FID_uncached": 0.01 * NOISE}}


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
    methods, macs = ["Full", "HarmoniCa", "Random plan", "SDT + L_LTC", "FORA"], [2.0, 1.0, 1.0, 1.01, 0.8]
    found = list(verdicts(methods, macs, [row(3), row(3.1), row(3.2), row(3.11, own), row(2.9)]))
    assert len(found) == 3
    assert "beats random reuse (HarmoniCa against Random plan): FID **yes** (-0.1, -0.1 … -0.1)" in found[0]
    assert "plain loss" in found[1] and "FID **undecided**" in found[1] and "equal MACs" not in found[1]
    assert "FID **no**" in found[2] and "not at equal MACs, HarmoniCa takes 1.25 of FORA's" in found[2]


def test_rows_that_are_not_there_and_rows_without_intervals():
    assert list(verdicts(["Full", "HarmoniCa"], [1, 1], [row(1), row(2)])) == []
    assert list(verdicts(["HarmoniCa", "FORA"], [1, 1], [{"FID": 1.0}, {"FID": 2.0}])) == []
