"""Every shipped plan is what its name says, what the committed run measured, and what `harmonica recommend` names."""

import numpy as np
import pytest
import torch

from harmonica.cli import main
from harmonica.execution.run import Batch, run
from harmonica.models import get_model
from harmonica.models.loading import load_backbone, load_decoder
from harmonica.plan import FORECAST, Plan, all_compute, macs, theoretical_speedup
from harmonica.plan.forecast import extrapolation
from harmonica.pocket import build_plans
from harmonica.sharing import measured, shipped_plans, table_files
from harmonica.utils import UserError

NAMED = [(model, speedup) for model in build_plans.MODELS for speedup in build_plans.SPEEDUPS]
FRONTIER = measured.REFERENCE / "frontier.csv"
IMAGES = 8


def shipped(model: str, speedup: int) -> Plan:
    return Plan.load(shipped_plans.FOLDER / f"{model}-{speedup}x.safetensors")


def test_names():
    assert [p.name for p in shipped_plans.paths()] == [f"{model}-{speedup}x.safetensors" for model, speedup in NAMED]


@pytest.mark.parametrize(("model", "speedup"), NAMED)
def test_a_name_is_kept(model, speedup):
    """Model and official sampler; MACs as near as a table's rows come, and nearer to this name than to another."""
    plan, about = shipped(model, speedup), get_model(model)
    plan.check_fits(model=model, sampler=about.sampler, steps=20, layout=about.layout)
    own = theoretical_speedup(plan, about.layout)
    assert own >= measured.NEAR * speedup
    assert min(build_plans.SPEEDUPS, key=lambda k: abs(k - own)) == speedup


@pytest.fixture(scope="module")
def frontier():
    return measured.read(FRONTIER)


@pytest.mark.parametrize(("model", "speedup"), NAMED)
def test_it_is_the_recommended_row(frontier, capsys, monkeypatch, tmp_path, model, speedup):
    """Method, CUR and MACs are those of the row; the command prints the file's path."""
    plan = shipped(model, speedup)
    row = measured.ranked(frontier, model, speedup, None, "PSNR", FRONTIER).iloc[0]
    assert measured.slugs_of(plan, table_files.read_provenance(FRONTIER)) == list(row.slugs)
    assert plan.origin.method == row["name"] and plan.cur == pytest.approx(row.CUR, rel=1e-4)
    halves = 2  # guided
    assert halves * macs(plan, get_model(model).layout) / 1e9 == pytest.approx(row.GMACs, rel=1e-4)
    quality = measured.quality_of(plan, [FRONTIER])
    assert quality and quality.row["PSNR"] == row.PSNR
    index = (shipped_plans.FOLDER / "README.md").read_text()
    assert f"{model}-{speedup}x.safetensors) | {row.method} |" in index and f"| {row.PSNR:.2f} ±" in index
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "--model", model, "--speedup", str(speedup), "--table", str(FRONTIER)]) == 0
    assert f"{model}-{speedup}x.safetensors" in capsys.readouterr().out


def uniform(plan: Plan) -> Plan:
    """Lines through the last two outputs of evenly spaced full steps, the fewest that cost no less than the plan."""
    layout = get_model(plan.protocol.model).layout
    for count in range(2, plan.steps + 1):
        actions = np.full_like(plan.actions, FORECAST)
        actions[np.linspace(0, plan.steps - 1, count).round().astype(int)] = 0
        rival = Plan(actions, plan.protocol, weights=extrapolation(actions, 1))
        if macs(rival, layout) >= macs(plan, layout):
            return rival
    raise AssertionError("nothing costs as much")


def fewer_steps(plan: Plan) -> Plan:
    """The uncached model in the fewest steps that the sampler can take and that cost no less than the plan."""
    layout, even = get_model(plan.protocol.model).layout, plan.protocol.sampler == "dpm-solver"
    for steps in range(2, plan.steps + 1, 2 if even else 1):
        protocol = plan.with_protocol(prior_noise=0.0).protocol
        rival = all_compute(type(protocol)(protocol.model, protocol.sampler, steps, protocol.cfg), plan.branches)
        if macs(rival, layout) >= macs(plan, layout):
            return rival
    raise AssertionError("nothing costs as much")


def psnr(images, others) -> float:
    """Mean over images uint8 (n, H, W, C), dB."""
    error = ((images.double() - others.double()) ** 2).flatten(1).mean(1).clamp(min=1e-3)
    return float((10 * torch.log10(255**2 / error)).mean())


@pytest.mark.parametrize("model", build_plans.MODELS)
def test_images_are_closer_than_those_of_rivals(model):
    """To the uncached images of a seed that no plan was made with, than those of evenly spaced forecasts and of fewer
    steps, which have no fewer MACs."""
    about = get_model(model)
    backbone, decode = load_backbone(about), load_decoder(about)
    batch = Batch.of(backbone, 20, 0, IMAGES)
    uncached = None
    for speedup in build_plans.SPEEDUPS:
        plan = shipped(model, speedup)
        if uncached is None:
            uncached = run(backbone, all_compute(plan.protocol, plan.branches), batch, decode=decode)
        own, *rivals = (
            psnr(run(backbone, p, batch, decode=decode), uncached) for p in (plan, uniform(plan), fewer_steps(plan))
        )
        assert own > max(rivals), (speedup, own, rivals)


def test_they_are_listed(capsys):
    assert main(["show", "--shipped"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMED)
    for line, path in zip(lines, shipped_plans.paths(), strict=True):
        assert line.startswith(f"{path}: ") and "theoretical speed-up" in line


def test_a_run_whose_plans_are_others_ships_nothing(tmp_path):
    """A file of the right name, made by another training."""
    for name in ("frontier.csv", "frontier.provenance.json"):
        (tmp_path / name).write_bytes((measured.REFERENCE / name).read_bytes())
    row = measured.ranked(measured.read(FRONTIER), *NAMED[0], None, "PSNR", FRONTIER).iloc[0]
    plan = shipped(*NAMED[0])
    other = plan.with_origin(cost=plan.origin.cost | {"training_s": 1.0})
    other.save(tmp_path / "plans" / f"{row.slugs[0]}.safetensors")
    with pytest.raises(UserError, match="is not the plan that"):
        build_plans.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
