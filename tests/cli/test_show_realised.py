"""`harmonica show --samples`: what images did under a rule."""

import re

import numpy as np
import pytest

from harmonica.cli import main
from harmonica.plan import SPAN_DELTA, Plan, Protocol, Rule, all_compute

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
    plan = all_compute(Protocol("pocket-dit", "ddim", STEPS, 1.3), BRANCHES)
    plan.save(tmp_path / "full.safetensors")
    assert main(["show", str(tmp_path / "full.safetensors"), "--samples", str(made[1])]) == 2
    assert "were not made under this plan's rule" in capsys.readouterr().err
