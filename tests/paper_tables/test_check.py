"""Wrong weights, reference or protocol show in the uncached row, before anything is trained."""

import json

import pytest

from harmonica.cli import main
from harmonica.evaluation.records import Metrics

SLUG = "dit-xl-2-256_ddim50_full"
CONFIG = {
    "scale": "paper", "seed": 0, "seeds": [0], "sampler": "ddim", "cfg": 1.5, "methods": ["full"],
    "cases": {"50": {"model": "dit-xl-2-256", "steps": 50}, "7": {"model": "dit-xl-2-256", "steps": 7}},
}  # fmt: skip


def check(folder, fid, inception_score, *options, images=50_000, case="50") -> tuple[int, dict | None]:
    """Exit status, and what was written."""
    slug = SLUG if case == "50" else "dit-xl-2-256_ddim7_full"
    row = {"FID": fid, "IS": inception_score, "N": images, "blocks": {}}
    Metrics("x", [], {}, {slug: row}).save(folder / "metrics.json")
    out = folder / "checked.json"
    status = main([
        "check", str(folder / "metrics.json"), "--table", "table1", "--case", case, "--config", json.dumps(CONFIG),
        *options, "-o", str(out),
    ])  # fmt: skip
    return status, json.loads(out.read_text()) if out.exists() else None


def test_the_published_row(tmp_path, capsys):
    """FID 2.27 and IS 240.37 are the paper's."""
    status, found = check(tmp_path, 2.30, 239.0)
    assert status == 0 and found["comparable"] and found["relative_gaps"]["FID"] == pytest.approx(2.30 / 2.27 - 1)
    assert "FID 2.30 (published 2.27, +1.3 %), IS 239.00 (published 240.37, -0.6 %)" in capsys.readouterr().err


@pytest.mark.parametrize(("fid", "inception_score"), [(2.60, 240), (2.27, 220), (1.9, 240), (40.0, 30.0)])
def test_another_row_stops_the_run(tmp_path, capsys, fid, inception_score):
    status, found = check(tmp_path, fid, inception_score)
    assert status == 2 and found is None
    said = capsys.readouterr().err
    assert "wrong weights, reference or protocol" in said and "--config force=true goes on" in said


def test_forced(tmp_path, capsys):
    status, found = check(tmp_path, 40.0, 30.0, "--force")
    assert status == 0 and found["forced"]


def test_fewer_images_are_not_judged(tmp_path, capsys):
    """FID depends on the number of images."""
    status, found = check(tmp_path, 7.0, 180.0, images=5000)
    assert status == 0 and not found["comparable"]
    assert "not judged, since 5000 images are not 50000" in capsys.readouterr().err


def test_a_row_that_the_paper_does_not_have(tmp_path, capsys):
    status, found = check(tmp_path, 7.0, 180.0, case="7")
    assert status == 0 and found["relative_gaps"] == {}
    assert "no row to compare with" in capsys.readouterr().err
