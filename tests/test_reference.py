"""The committed reference run: it is of the shipped configuration, and the README shows what it found."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harmonica import suite
from paper_tables.published import table, table1_row
from paper_tables.table1 import short

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "reference" / "pocket"


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "table1.csv")


def test_rows(reference):
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "pocket.yaml").read_text())
    rows = suite.rows(shipped)
    assert len(reference) == len(rows) and (reference.samples >= 5000).all()
    record = json.loads((REFERENCE / "table1.provenance.json").read_text())
    assert set(record["origins"]) == {r.slug for r in rows} and len(record["commit"]) >= 12


def test_readme_shows_it(reference):
    assert short(reference, "20") in (ROOT / "README.md").read_text()


def test_learned_rows_meet_their_targets(reference):
    """The paper's CURs, within the search's tolerance; LTC uses images, the step-wise methods none."""
    for _, row in reference[reference.paper_CUR.notna()].iterrows():
        assert row.CUR == pytest.approx(row.paper_CUR, abs=1.5)
    by_method = reference.groupby("method").training_images.max()
    assert by_method["Learning-to-Cache"] > 0 and by_method["HarmoniCa"] == by_method["SDT + L_LTC"] == 0


def test_published_numbers():
    """Spot checks against the paper's tables 1 and 6."""
    assert table1_row("harmonica", 50)["FID"] == 2.36 and table1_row("fewer_steps", 14)["IS"] == 201.83
    assert table1_row("fora", 50) == {} and table1_row("full", 20, 512)["FID"] == 5.10
    assert set(table("table6_training_cost").method) == {"Learning-to-Cache", "SDT + L_LTC", "HarmoniCa"}
