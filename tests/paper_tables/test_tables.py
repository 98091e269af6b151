"""Tables and figures on the command line."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from harmonica.cli import main
from harmonica.evaluation.records import Metrics
from harmonica.experiments import config as configuration
from harmonica.methods import get_method, known_methods
from harmonica.utils import UserError
from paper_tables import figures, tables
from paper_tables.commands.table import read_metrics
from paper_tables.layout import _settings, told_apart
from paper_tables.measured import Measured
from paper_tables.style import styles

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "paper_tables" / "tables").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_file_is_a_table(path):
    assert path.stem in tables.known_tables()
    about = tables.get_table(path.stem)
    assert isinstance(about.title, str) and about.title
    assert all(callable(getattr(about, part)) for part in ("build", "markdown", "draw"))


def test_a_table_that_is_not_there(capsys, tmp_path):
    assert main(["table", "table9", "--config", "{}", "--plans", "x", "-o", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "unknown table 'table9'; did you mean 'table" in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_figure_of_memory(tmp_path):
    """Of the committed reference run."""
    measured = ROOT / "results" / "reference" / "pocket" / "table1.csv"
    out = tmp_path / "memory.png"
    assert main(["figure", "memory", str(measured), "--model", "pocket-dit", "-o", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and out.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_the_figure_of_the_sweep_joins_every_method(tmp_path, monkeypatch):
    """From the uncached row on, but for another sampler; the paper's panels have the methods that it measured."""
    seen: list = []
    monkeypatch.setattr(figures, "save", lambda figure, path: seen.extend(figure.axes))
    rows = [("Full", 1.0), ("Fewer steps", 1.2), ("Fewer steps", 1.4), ("DPM-Solver++", 1.2), ("HarmoniCa", 1.3)]
    about = {"model": "m", "extractor": "x", "steps": 10, "samples": 8, "IS": 6.0, "FID": 0.3}
    found = pd.DataFrame([{"method": m, "speedup": x, **about} for m, x in rows])
    found["sampler"] = ["DPM-Solver++" if m == "DPM-Solver++" else "DDIM" for m in found.method]
    papers = found[found.method.isin(["Full", "HarmoniCa"])].drop(columns="sampler")
    figures.sweep(found, found[found.method == "HarmoniCa"], papers, tmp_path / "sweep.png")
    ours, theirs = ({line.get_label(): len(line.get_xdata()) for line in ax.lines} for ax in seen[:2])
    assert ours == {"Fewer steps": 3, "DPM-Solver++": 1, "HarmoniCa": 2} and theirs == {"HarmoniCa": 2}


def test_settings_that_have_a_column_do_not_tell_rows_apart():
    """Or each row of fewer steps would be a method of its own in a figure, not a point of its line."""
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "pocket.yaml").read_text())
    rows = configuration.rows(configuration.tables(shipped, {})["ablations"])
    told = {_settings(r) for r in rows if r.case == "trajectories"}
    assert told == {"", "beta 1e-07", "beta 1e-07, rounds 8", "beta 1e-07, rounds 15", "beta 1e-07, rounds 60"}
    assert not any(_settings(r) for r in configuration.rows(configuration.tables(shipped, {})["sweep"]))


def test_a_better_solver_is_in_the_panel_of_its_case():
    """Also in table 2, whose cases have samplers of their own."""
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "pocket.yaml").read_text())
    about = configuration.tables(shipped, {})["table2"]
    measured = Measured("pocket", configuration.rows(about), {}, "", {}, {}, {}, {})
    lines = pd.DataFrame({"case": [line[0].case for line in measured.lines]})
    panels = lines.assign(panel=tables.get_table("table2").panels(lines, measured))
    assert (panels.groupby("case").panel.nunique() == 1).all()
    assert set(panels.panel[panels.case == "sa-25"]) == {"SA-Solver, case sa-25"}


def test_rows_of_mixed_devices_are_named(tmp_path):
    """As their files of metrics say: of GPUs, and of processors whatever their cores."""
    about = {"scale": "pocket", "sampler": "ddim", "cfg": 1.5, "seeds": [0], "methods": ["full", "fora"],
             "cases": {c: {"model": "pocket-dit", "steps": s} for c, s in (("a", 4), ("b", 3))}}  # fmt: skip
    rows = configuration.rows(about)
    made_on = {"a": ["H100", "A100"], "b": ["Xeon, 2 cores", "Xeon, 4 cores"]}
    paths = [tmp_path / case / "all.json" for case in made_on]
    for path, (case, devices) in zip(paths, made_on.items(), strict=True):
        own = {r.slug: {"N": 8, "blocks": {}} for r in rows if r.case == case}
        Metrics("H100", [{"device": d, "precision": "tf32"} for d in devices], {"side": 32}, own).save(path)
    metrics, references = read_metrics(paths)
    assert references == {"a": {"side": 32}, "b": {"side": 32}}
    measured = Measured("pocket", rows, {}, "H100", {}, metrics, {}, {})
    assert measured.mixed() == {"A100 and H100": [r for r in rows if r.case == "a"]}


def test_the_papers_metrics_stand_beside_as_many_images_only():
    from harmonica.experiments import Experiment
    from paper_tables.published import of_images

    e, row = Experiment.of("dit-xl-2-256", "ddim", 20, 1.5, "full", {}, 0), {"FID": 3.8, "speedup": 1.4, "CUR": 30.0}
    assert of_images(row, e, 50_000) == row and of_images(row, e, 5000) == {"speedup": 1.4, "CUR": 30.0}
    pocket = Experiment.of("pocket-dit", "ddim", 20, 1.5, "full", {}, 0)
    assert of_images(row, pocket, 200) == row


def test_the_paper_has_no_row_for_another_kind_of_model():
    from harmonica.experiments import Experiment

    on = {m: Experiment.of(m, "ddim", 20, 1.5, "full", {}, 0) for m in ("pocket-dit", "pocket-uvit")}
    assert tables.get_table("table1").published(on["pocket-dit"], 20) and not tables.get_table("table1").published(
        on["pocket-uvit"], 20
    )


def test_a_table_of_ones_own_is_laid_out_as_the_one_it_is_like():
    shown, own = tables.get_table("table1"), tables.of_config("mine", {"like": "table1"})
    assert own.title == "mine, laid out as table 1"
    assert (own.published, own.metrics, own.figure) == (shown.published, shown.metrics, shown.figure)
    assert tables.of_config("table1", {}) is shown
    with pytest.raises(UserError, match="unknown table 'mine'"):
        tables.of_config("mine", {})


def test_black_is_the_uncached_rows_alone():
    titles = [get_method(name).title for name in known_methods()]
    black = [title for title, look in styles(titles).items() if look["color"] == "#000000"]
    assert black == [get_method("full").title]


def test_a_compression_looks_alike_with_and_without_plans_beside_it():
    alone = ["EfficientDM W8A8", "EfficientDM W4A8"]
    both = ["Full", "EfficientDM W8A8", "EfficientDM W8A8 + HarmoniCa", "EfficientDM W4A8"]
    assert {name: styles(both)[name] for name in alone} == styles(alone)
    assert list(styles(both)) == both


def test_rows_of_one_name_are_told_apart():
    """By steps, then by CUR; a name that stands alone stays, and so does one in another case."""
    rows = [("a", "Fewer steps", 8, 0.0), ("a", "Fewer steps", 6, 0.0), ("a", "HarmoniCa", 10, 8.1),
            ("a", "HarmoniCa", 10, 16.2), ("b", "HarmoniCa", 10, 8.1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["case", "method", "steps", "CUR"])
    assert told_apart(table) == [
        "Fewer steps, 8 steps", "Fewer steps, 6 steps", "HarmoniCa, CUR 8 %", "HarmoniCa, CUR 16 %", "HarmoniCa"
    ]  # fmt: skip
