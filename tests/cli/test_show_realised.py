"""`harmonica show --samples`: what images did under a rule."""

import re

import numpy as np
import pytest

from harmonica.cli import main
from harmonica.plan import OUTPUT_FORECAST, SPAN_DELTA, Plan, Protocol, Rule, all_compute

STEPS, BRANCHES = 6, 16


@pytest.fixture
def made(tmp_path):
    actions = np.zeros((STEPS, BRANCHES), np.uint8)
    actions[1:, 2:] = SPAN_DELTA
    plan = Plan(actions, Protocol("pocket-dit", "ddim", STEPS, 1.3), rule=Rule("first branches", 0.3))
    path, out = tmp_path / "rule.safetensors", tmp_path / "samples"
    plan.save(path)
    assert main(["sample", str(path), "--images", "5", "--chunk", "3", "-o", str(out)]) == 0
    return path, next(out.iterdir())


def test_what_images_did(made, capsys):
    path, folder = made
    skipped = np.concatenate([np.load(f)["skipped"] for f in sorted(folder.glob("*.npz"))])
    assert skipped.shape == (5, 2, STEPS) and 0 < skipped.mean() < 1
    capsys.readouterr()
    assert main(["show", str(path), "--samples", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"realised by 5 images: CUR {100 * skipped.mean() * 14 / 16:.2f} %" in out
    rows = re.findall(r"^ +(\d) +(\d+) +(\d+)$", out, re.M)
    assert [(int(a), int(b)) for _, a, b in rows] == [tuple(np.round(100 * x).astype(int)) for x in skipped.mean(0).T]


def test_images_of_another_plan(made, tmp_path, capsys):
    protocol = Protocol("pocket-dit", "ddim", STEPS + 1, 1.3)
    full, other = all_compute(protocol, BRANCHES), tmp_path / "other.safetensors"
    actions = full.actions.copy()
    actions[1:, 2:] = SPAN_DELTA
    Plan(actions, protocol, rule=Rule("first branches", 0.3)).save(other)
    assert main(["show", str(other), "--samples", str(made[1])]) == 2
    assert "were not made under this plan's rule" in capsys.readouterr().err
    full.save(other)
    assert main(["show", str(other), "--samples", str(made[1])]) == 2
    assert "--samples shows what a rule did" in capsys.readouterr().err


def test_every_action_has_a_letter(tmp_path, capsys):
    actions = np.zeros((3, BRANCHES), np.uint8)
    actions[2] = OUTPUT_FORECAST
    weights = np.zeros((3, 1, 2), np.float32)
    weights[2] = 2, -1
    Plan(actions, Protocol("pocket-dit", "ddim", 3, 1.3), weights=weights).save(tmp_path / "p.safetensors")
    assert main(["show", str(tmp_path / "p.safetensors")]) == 0
    assert f"   2 {'O' * BRANCHES}  2 -1" in capsys.readouterr().out
