"""`harmonica compare`, on the shipped PixArt pipeline and on a random one."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_pipelines import STEPS, tiny

import harmonica
from harmonica.checks import compare
from harmonica.cli import main
from harmonica.plan import Plan, macs
from harmonica.runtimes.pipeline_calls import Calls
from harmonica.utils.errors import UserError
from harmonica.utils.files import POCKET
from paper_tables import comparison

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def calls() -> Calls:
    return Calls.of(tiny("sd3").pipe, ["a"], STEPS, arguments=tiny("sd3").arguments)


def test_the_command(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red heart\na green leaf\n", "utf-8")
    command = ["compare", "--pipeline", str(POCKET / "noto-emoji"), "--prompts", str(tmp_path / "prompts.txt"),
               "--steps", "6", "--cfg", "5", "--images", "3", "--speedups", "1.5", "--methods", "fora", "fbcache",
               "--set", "fbcache.images=1", "-o", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert list(table.name) == ["full", "fewer_steps", "fora", "fbcache"]
    rows = table.set_index("name")
    assert np.isnan(rows.PSNR["full"]) and rows.theoretical_speedup["full"] == rows.speedup["full"] == 1
    own = rows.drop("full")
    assert (own.PSNR_low < own.PSNR).all() and (own.PSNR < own.PSNR_high).all() and (own.PSNR > 5).all()
    assert rows.theoretical_speedup["fewer_steps"] == pytest.approx(1.5) and rows.steps["fewer_steps"] == 4
    assert rows.tuning_images["fbcache"] > 0 == rows.tuning_images["fora"]
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    pictures = [Image.open(io.BytesIO(base64.b64decode(x))) for x in re.findall(r"base64,([^\"]+)", page)]
    assert len(pictures) == 1 + 4 * 3 and all(p.size == (comparison.SIDE,) * 2 for p in pictures[1:])
    assert "1.5x fewer MACs: " in page and "1.5x fewer MACs: " in capsys.readouterr().out
    plans = sorted((tmp_path / "out" / "plans").iterdir())
    assert len(plans) == 2
    for path, name in zip(plans, ("fbcache", "fora"), strict=True):  # a card has what was measured of its plan
        assert main(["show", str(path), "--quality", str(tmp_path / "out" / "compare.csv")]) == 0
        out = capsys.readouterr().out
        assert f"PSNR ↑ {rows.PSNR[name]:.2f} ±" in out and "3 images of PixArtAlphaPipeline" in out


def test_a_plan_by_command(tmp_path, capsys):
    """As `docs/pipelines.md` has it, at a smaller size, and then in the pipeline."""
    (tmp_path / "prompts.txt").write_text("a red heart\n", "utf-8")
    out = tmp_path / "searched.safetensors"
    command = ["plan", "step_search", "--pipeline", str(POCKET / "noto-emoji"), "--steps", "4", "--cfg", "5"]
    command += ["--prompts", str(tmp_path / "prompts.txt"), "--set", "target_cur=50", "--set", "images=1"]
    assert main([*command, "--set", "evaluations=2", "--set", "form=last", "-o", str(out)]) == 0
    assert "step_search for PixArtTransformer2DModel-" in (said := capsys.readouterr().out) and "training_s = " in said
    pipe = harmonica.load_pipeline(POCKET / "noto-emoji")
    pipe.set_progress_bar_config(disable=True)
    with harmonica.cached(pipe, out):
        images = pipe("a red heart", num_inference_steps=4, guidance_scale=5.0, output_type="np").images
    assert images.shape[0] == 1 and np.isfinite(images).all()


def test_plans_are_kept_for_the_same_calls(tmp_path):
    first = compare.candidates(calls(), ["fora"], [1.5], tmp_path, {})
    made = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    compare.candidates(calls(), ["fora"], [1.5], tmp_path, {})
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == made
    compare.candidates(calls(), ["fora"], [1.5], tmp_path, {}, seed=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert isinstance(first[2].plan, Plan)


def test_budgets(tmp_path):
    own = calls()
    for x in (1.2, 1.5, 2.0):
        cur = compare.target_cur(own, x)
        saved = own.layout.branch_macs.sum() * cur / 100
        assert own.layout.macs / (own.layout.macs - saved) == pytest.approx(x)
    with pytest.raises(UserError, match="no plan of 6 steps has 50 times fewer MACs"):
        compare.candidates(own, ["fora"], [50], tmp_path, {})


def test_rows_of_latents(tmp_path):
    """Without pictures; the distance of an image to itself is that of equal latents."""
    own = calls()
    found = compare.candidates(own, ["taylorseer"], [1.5], tmp_path, {})
    found.insert(1, compare.Candidate("full", 1.5, STEPS))
    compare.measure(own, found, 2, pictures=False)
    table = pd.DataFrame(compare.rows(own, found))
    assert "PSNR" not in table and table.latent_PSNR[1] == pytest.approx(120)
    plan = found[-1].plan
    assert table.theoretical_speedup.iloc[-1] == pytest.approx(STEPS * own.layout.macs / macs(plan, own.layout))
    assert "1.5x fewer MACs: " in comparison.text(table)


def test_pictures_that_are_not_finite_are_no_pictures(tmp_path):
    """All black, they would be equal."""
    assert compare._picture([np.full((4, 4, 3), 0.5)], "fora: image 0").max() == 128
    with pytest.raises(UserError, match="fora: image 0 is decoded to numbers that are not finite"):
        compare._picture([np.full((4, 4, 3), np.nan)], "fora: image 0")


def test_only_rows_of_equal_macs_are_ranked(tmp_path):
    """A fixed interval that saves far more than asked for is not worse than what saves less."""
    own = calls()
    found = compare.candidates(own, ["fora"], [1.2], tmp_path, {})
    compare.measure(own, found, 2, pictures=False)
    table = pd.DataFrame(compare.rows(own, found)).set_index("name")
    assert table.theoretical_speedup["fora"] > 1.2 * 1.05 and not table.compared["fora"] and not table.tied["fora"]
    assert table.compared["fewer_steps"] and table.tied["fewer_steps"]
    (line,) = comparison.advice(table.reset_index())
    assert line.startswith("1.2x fewer MACs: Fewer steps, ") and "not at equal MACs: FORA (" in line


@pytest.mark.parametrize("given, says", [
    (["--steps", "0"], "at least one step"), (["--cfg", "nan"], "a finite guidance scale"),
    (["--speedups", "1"], "above 1"), (["--set", "images=2"], "METHOD.KEY=VALUE"), (["--call", "x"], "KEY=VALUE"),
    (["--call", "num_inference_steps=4"], "is set by options and prompts"),
    (["--call", "guidance_scale=high"], "guidance scales of a call are numbers"),
    (["--call", "height=36"], "cannot be called with these arguments .*divisible by 8"),
    (["--methods", "harmonica"], "does not work on a pipeline|needs a model of this suite"),
])  # fmt: skip
def test_wrong_arguments(given, says, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red heart\n", "utf-8")
    command = ["compare", "--pipeline", str(POCKET / "noto-emoji"), "--prompts", str(tmp_path / "prompts.txt"),
               "--steps", "6", "-o", str(tmp_path / "out"), *given]  # fmt: skip
    assert main(command) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.csv"))


def test_options_that_are_not_for_pipelines(capsys, tmp_path):
    command = ["plan", "fora", "--pipeline", "x", "--prompts", "y", "-o", str(tmp_path / "p.safetensors")]
    assert main([*command, "--model", "pocket-uvit", "--memory", "3"]) == 2
    assert "--model and --memory does not go together with --pipeline" in capsys.readouterr().err
