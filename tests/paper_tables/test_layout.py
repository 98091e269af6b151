"""Cells of tables."""

from pathlib import Path

import pandas as pd
import pytest

from paper_tables.layout import formatted
from paper_tables.tables import get_table

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "pocket"


@pytest.mark.parametrize("speedup, cell", [(2.83, "2.83"), (3.29, "3.29"), (3.34, "3.34 (of 3)"), (2.6, "2.60 (of 3)")])
def test_a_missed_budget_is_behind_the_macs(speedup, cell):
    assert formatted("theoretical_speedup", pd.Series({"theoretical_speedup": speedup, "budget": 3.0})) == cell
    assert formatted("theoretical_speedup", pd.Series({"theoretical_speedup": speedup})) == cell.split()[0]


def test_budgets_of_the_frontier_are_its_cases():
    """`dit-1-5x` asks every row for 1.5 times fewer MACs, by a CUR that follows from the model's layout."""
    measured = pd.read_csv(REFERENCE / "frontier.csv").set_index("case")
    for case, budget in measured.budget.dropna().items():
        assert budget == pytest.approx(float(case.split("-", 1)[1].rstrip("x").replace("-", ".")), rel=0.01)
    assert get_table("frontier").budgets and not get_table("table1").budgets
