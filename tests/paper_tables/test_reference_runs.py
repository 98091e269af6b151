"""The committed reference run: it is of the shipped configuration, and the README shows what it found."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harmonica.experiments import Experiment, config
from paper_tables.layout import short
from paper_tables.published import caches_as_much, table
from paper_tables.tables import get_table
from paper_tables.verdicts import Verdict, text

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "results" / "reference" / "pocket"
OF_1000 = {"table2", "table4", "table5"}
OF_5000 = {"table1", "table3", "sweep", "ablations", "transfer"}


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "table1.csv")


@pytest.mark.parametrize("name", sorted(OF_1000 | OF_5000))
def test_rows(name):
    """Those of the shipped configuration, over three training seeds."""
    found, record = (
        pd.read_csv(REFERENCE / f"{name}.csv"),
        json.loads((REFERENCE / f"{name}.provenance.json").read_text()),
    )
    rows = config.rows(record["config"])
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "pocket.yaml").read_text())
    assert {r.slug for r in config.rows(config.tables(shipped, {"seeds": [0, 1, 2]})[name])} == {r.slug for r in rows}
    assert len(found) == len(config.by_method(rows)) and (found.samples >= (1000 if name in OF_1000 else 5000)).all()
    assert (found.seeds > 1).sum() == sum(len(line) > 1 for line in config.by_method(rows)) > 3
    assert set(record["origins"]) == {r.slug for r in rows} and len(record["commit"]) >= 12


@pytest.mark.parametrize("name", sorted(OF_1000 | OF_5000 | {"table6"}))
def test_verdicts_are_those_of_the_record(name):
    """Every line below a table follows from what its provenance has of the compared rows."""
    page = (REFERENCE / f"{name}.md").read_text("utf-8")
    record = json.loads((REFERENCE / f"{name}.provenance.json").read_text())
    lines = [line for case in record["verdicts"].values() for line in text(Verdict(**v) for v in case)]
    below = [line for line in page.splitlines() if re.match(r"- (?!case ).*\*\*(yes|no|undecided)", line)]
    assert below == lines and lines


def test_what_a_benchmark_must_show(reference):
    """The control row is at distance 0, random reuse is further from the uncached images than HarmoniCa's by more than
    the interval, and DPM-Solver++ is closer to the converged solution than the uncached sampler it replaces."""
    full = reference[reference.method == "Full"]
    assert (full.FID_uncached.abs() < 1e-6).all() and full.PSNR.isna().all()
    by = reference.set_index(["case", "method"])
    verdicts = json.loads((REFERENCE / "table1.provenance.json").read_text())["verdicts"]
    against = {(case, v["better"]): v for case, found in verdicts.items() for v in found if v["other"] == "Random plan"}
    for case in full.case:
        assert against[case, "HarmoniCa"]["verdict"] == "yes" and against[case, "HarmoniCa"]["high"] < 1
    solver = reference[(reference.method == "DPM-Solver++") & reference.theoretical_speedup.between(1.1, 2)]
    for case in ("50", "20", "10"):
        (own,) = solver.PSNR_converged[solver.case == case]
        assert own > by.PSNR_converged[case, "Full"].item() + 1


def test_forecasts_save_three_times_as_much_at_less_distance(reference):
    """At 50 steps, four times fewer MACs, and closer to the uncached images than HarmoniCa's own row with 1.3 times."""
    by = reference.set_index(["case", "method"])
    ours, own = by.loc[("50", "Step search")], by.loc[("50", "HarmoniCa")]
    assert ours.theoretical_speedup >= 4 > 3 * own.theoretical_speedup
    assert ours.PSNR_low > own.PSNR and ours.FID_uncached < own.FID_uncached
    last = by.loc[("50", "Step search, last block")]
    assert last.PSNR_low > own.PSNR_high and last.speedup >= 0.9 * last.theoretical_speedup >= 4


def test_recipes_are_as_good_as_five_times_the_training():
    """Of every learned method the PSNR to the uncached images is within the interval of a training of five times as
    many rounds, and the other way round."""
    found = pd.read_csv(REFERENCE / "ablations.csv", dtype={"settings": str}).fillna({"settings": ""})
    found = found[(found.case == "five-times") & (found.training_s > 0)]
    longer = found.settings.str.contains(r"rounds (?:150|200|300|350)$")
    assert sorted(found.method[longer]) == ["HarmoniCa", "HarmoniCa-Forecast", "Learning-to-Cache", "SDT + L_LTC"]
    for _, five in found[longer].iterrows():
        (own,) = (row for _, row in found[~longer & (found.method == five.method)].iterrows())
        assert five.training_s > 2 * own.training_s
        assert five.PSNR_low < own.PSNR < five.PSNR_high and own.PSNR_low < five.PSNR < own.PSNR_high


def test_readme_shows_it(reference):
    assert short(reference, "20") in (ROOT / "README.md").read_text()


def test_learned_rows_meet_their_targets(reference):
    """The paper's CURs, as near as a search ends; LTC uses images, the step-wise methods none."""
    for _, row in reference[reference.paper_CUR.notna()].iterrows():
        assert row.CUR == pytest.approx(row.paper_CUR, abs=0.6)
    by_method = reference.groupby("method").training_images.max()
    assert by_method["Learning-to-Cache"] > 0 and by_method["HarmoniCa"] == by_method["SDT + L_LTC"] == 0


def test_published_numbers():
    """Spot checks against the paper's tables 1 and 6."""

    def of(table: str, model: str, method: str, steps: int, sampler: str = "ddim", cfg=1.5, case=0) -> dict:
        settings = {"steps": steps} if method == "fewer_steps" else {}
        e = Experiment.of(model, sampler, case or steps, cfg, method, settings)
        return get_table(table).published(e, steps)

    assert of("table1", "pocket-dit", "harmonica", 50)["FID"] == 2.36
    assert of("table1", "dit-xl-2-256", "fewer_steps", 14, case=20)["IS"] == 201.83
    assert of("table1", "pocket-dit", "fora", 50) == {} and of("table1", "dit-xl-2-512", "full", 20)["FID"] == 5.10
    assert of("table2", "pixart-alpha-1024", "harmonica", 25, "sa-solver", 4.5)["CLIP"] == 31.07
    assert of("table2", "pocket-pixart", "fora", 100, "iddpm")["FID"] == 25.16
    assert of("table2", "pixart-sigma-1024", "full", 20, "dpmsolver++") == {}
    assert of("table3", "pocket-uvit", "faster_diffusion", 20, "dpm-solver")["FID"] == 2.82
    assert of("table3", "uvit-h-2-256", "deepcache", 50, "dpm-solver") == {}
    # other samplers, cases and, at the paper scale, guidance scales are not the paper's
    assert (
        of("table1", "pocket-dit", "full", 20, "dpmsolver++") == {} == of("table1", "dit-xl-2-256", "full", 20, cfg=4)
    )
    assert of("table1", "pocket-dit", "full", 20, cfg=1.3)["cfg"] == 1.5
    assert of("table1", "pocket-dit", "fewer_steps", 10, case=20) == {} == of("table1", "pocket-dit", "full", 39)
    assert of("table3", "uvit-h-2-256", "deepcache", 20, "dpm-solver", 1.4)["FID"] == 2.70
    assert of("table3", "uvit-h-2-256", "deepcache", 20, "dpm-solver") == {}
    assert caches_as_much({"CUR": 37.5}, 37.4) and not caches_as_much({"CUR": 37.5}, 51) and caches_as_much({}, 51)
    assert set(table("table6_training_cost").method) == {"Learning-to-Cache", "SDT + L_LTC", "HarmoniCa"}


FRONTIER = REFERENCE / "frontier.csv"


def test_the_page_on_forecasts_shows_the_frontier():
    frontier, page = pd.read_csv(FRONTIER), (ROOT / "docs" / "forecast.md").read_text("utf-8")
    for case in ("dit-3x", "uvit-3x", "pixart-3x"):
        assert short(frontier, case) in page


def test_forecasts_leave_reuse_behind_at_equal_macs():
    """On the DiT and the U-ViT, and nothing there is a matter of noise. On the PixArt masks of reuse are as good."""
    frontier = pd.read_csv(FRONTIER).set_index(["case", "method"])
    for case in frontier.index.get_level_values("case").unique():
        searched, reused = frontier.loc[(case, "Step search")], frontier.loc[(case, "FORA")]
        assert searched.PSNR_low > reused.PSNR_high or case.startswith("pixart"), case


def test_every_method_is_in_the_frontier():
    frontier = pd.read_csv(FRONTIER)
    plain = {"Full", "Fewer steps", "DPM-Solver++"}
    assert len(set(frontier.method) - plain) >= 20 and frontier.CUR_sd.notna().sum() > 40
    assert set(frontier.case) == {f"{m}-{k}x" for m in ("dit", "uvit", "pixart") for k in ("1-5", "2", "3", "4", "5")}


def test_fine_grids_are_ahead_of_plain_solvers():
    """Closer to the converged solution by 3 dB, at 2/3, 1/2 and 1/3 of the evaluations on all models, and no further
    from real images than the uncached model beyond the interval of their difference."""
    frontier = pd.read_csv(FRONTIER)
    fine = frontier[frontier.method.str.startswith("Step search, 30 steps of")].set_index("case")
    assert set(fine.index) == {f"{m}-{k}x" for m in ("dit", "uvit", "pixart") for k in ("1-5", "2", "3")}
    plain = frontier[frontier.method.isin(["Fewer steps", "DPM-Solver++"])].groupby("case").PSNR_converged.max()
    assert (fine.PSNR_converged >= plain[fine.index] + 3).all() and (fine.dFID_low <= 0).all()


@pytest.mark.parametrize("name", ["table5", "frontier"])
def test_notes_name_what_cases_differ_in(name):
    """Features, guidance scales and the model of CLIP, of which some cases have none."""
    notes = (REFERENCE / f"{name}.md").read_text("utf-8").split("## ")[0]
    found = pd.read_csv(REFERENCE / f"{name}.csv")
    assert found.extractor.nunique() == 2 and all(f"**{x}**" in notes for x in found.extractor.unique())
    assert f"guidance scale {' or '.join(f'{x:g}' for x in found.cfg.unique())}." in notes and "nan" not in notes


def test_the_page_of_compressions_has_the_numbers_of_the_run():
    page = (ROOT / "docs" / "compression.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|,]+?)(?:, [^|]*)? \| (\.\d+) \(\S+\) \| (\S+) ±\S+ \| (\S+) \| (\S+) \|", page, re.M)
    found = pd.read_csv(REFERENCE / "table4.csv")
    assert rows == [
        (r.method, f"{r.FID_uncached:.4f}"[1:], f"{r.PSNR:.1f}", f"{r.size_MB:.2f}", f"{r.speedup:.2f}")
        for r in found[found.method != "Full"].itertuples()
    ]
