"""Bad input: one clear sentence, exit status 2, nothing left behind."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import protocol

from harmonica.cli import commands, main
from harmonica.evaluation import generate
from harmonica.models import MODELS
from harmonica.plan import Plan, all_compute

BRANCHES = len(MODELS["pocket-dit"].layout.branches)


def run(capsys, *args) -> tuple[int, str]:
    status = main([str(a) for a in args])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["forra"], "unknown method 'forra'; did you mean 'fora'?"),
        (["fora", "--model", "pocket-dti"], "unknown model 'pocket-dti'; did you mean 'pocket-dit'?"),
        (["fora", "--sampler", "ddmi"], "unknown sampler 'ddmi'; did you mean 'ddim'?"),
        (["fora", "--steps", "0"], "steps must be in [1, 1000], the number of training steps, got 0"),
        (["fora", "--steps", "2000"], "steps must be in [1, 1000], the number of training steps, got 2000"),
        (["fora", "--cfg", "0.5"], "the guidance scale must be at least 1, got 0.5"),
        (["fora", "--cfg", "nan"], "the guidance scale must be at least 1, got nan"),
        (["fora", "--seed", "-1"], "the seed must be in [0, 2147483647], got -1"),
        (["fora", "--set", "interval=inf"], "interval = inf is not int"),
        (["fora", "--set", "target_cur=900"], "fora: target_cur must be in (0, 100], got 900"),
        (["fewer_steps", "--set", "steps=0"], "steps must be in [1, steps], with steps = 50, got 0"),
        (["harmonica", "--set", "threshold=1.5"], "harmonica: threshold must be in [0, 1), got 1.5"),
        (["harmonica", "--set", "beta=-1"], "harmonica: beta must be in (0, ∞), got -1"),
        (["harmonica", "--steps", "1", "--set", "beta=1e-4"], "has nothing to route"),
        (["fora", "--set", "interval"], "--set takes KEY=VALUE, got 'interval'"),
        (["fora", "--set", "interval=x"], "interval = 'x' is not int"),
        (["harmonica", "--set", "target_cur=99"], "cannot reach a CUR of 99 %"),
        (["random_plan"], "starts from the plan of harmonica"),
        (["random_plan", "--from", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
    ],
)
def test_plan(capsys, tmp_path, args, says):
    status, err = run(capsys, "plan", *args, "-o", tmp_path / "p.safetensors")
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--steps", "5"], "made for number of steps 4, not 5"),
        (["--model", "dit-xl-2-256"], "made for model pocket-dit, not dit-xl-2-256"),
        (["--sampler", "dpm"], "made for sampler ddim, not dpm"),
        (["--steps", "0"], "made for number of steps 4, not 0"),
        (["--images", "0"], "cannot generate 0 images"),
    ],
)
def test_sample(capsys, tmp_path, args, says):
    plan = tmp_path / "p.safetensors"
    all_compute(protocol(4), BRANCHES).save(plan)
    status, err = run(capsys, "sample", plan, "-o", tmp_path / "out", *args)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["embed", "pixart"], "unknown model 'pixart'"),
        (["embed", "pocket-dit"], "pocket-dit is conditioned on classes, not captions"),
        (["embed", "pixart-alpha-256"], "coco-2014-val.txt (the captions coco-2014-val) is missing"),
        (["captions", "nowhere.json", "-o", "list.txt"], "nowhere.json is not COCO's file of captions"),
        (["reference", "nowhere", "--extractor", "fashion-mnist-cnn", "-o", "r.npz"], "nowhere is missing: pass one"),
        (["metrics", "m.json", "--uncached", "x", "--clip", "RN50", "-o", "r.json"], "pass --captions MODEL"),
        (["metrics", "m.json", "--uncached", "x", "--clip", "RN50", "--captions", "pocket-pixart", "-o", "r.json"],
         "the CLIP model RN50 would have random weights: pass --clip-pretrained TAG"),
        (["metrics", "m.json", "--uncached", "x", "--clip", "RN5", "--clip-pretrained", "openai", "--captions",
          "pocket-pixart", "-o", "r.json"], "open_clip cannot load RN5/openai"),
        (["smoke", "--model", "pocket-pixart"], "is shipped with its weights"),
        (["smoke", "--model", "pixart-sigma-2k", "--blocks", "29"], "PixArt-Σ has 28 blocks, not 29"),
    ],
)  # fmt: skip
def test_captions_and_their_metrics(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    status, err = run(capsys, *args)
    assert status == 2 and says in err.splitlines()[-1] and not list(tmp_path.iterdir())


def test_a_plan_with_the_branches_of_another_model(capsys, tmp_path):
    plan = tmp_path / "p.safetensors"
    all_compute(protocol(4), BRANCHES + 2).save(plan)
    status, err = run(capsys, "sample", plan, "-o", tmp_path / "out")
    assert status == 2 and "the plan has 18 branches, but pocket DiT has 16" in err


def test_no_disk_space(capsys, tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, err = run(capsys, "plan", "fora", "-o", tmp_path / "p.safetensors")
    assert status == 2 and f"No space left on device: {tmp_path / 'p.safetensors'}" in err
    assert not list(tmp_path.iterdir())


def test_several_plans_in_one_process(capsys, tmp_path):
    """The same as from one command each."""
    args = {"a": "fora --steps 5 --set interval=2", "b": "full --steps 3"}
    files = {name: tmp_path / f"{name}.safetensors" for name in args}
    assert run(capsys, "plans", json.dumps({str(files[k]): a for k, a in args.items()}))[0] == 0
    for name, own in args.items():
        assert run(capsys, "plan", *own.split(), "-o", tmp_path / "one.safetensors")[0] == 0
        made, one = Plan.load(files[name]), Plan.load(tmp_path / "one.safetensors")
        assert (made.actions == one.actions).all() and (made.protocol, made.origin) == (one.protocol, one.origin)
    status, err = run(capsys, "plans", json.dumps({str(tmp_path / "c"): "forra"}))
    assert status == 2 and "unknown method 'forra'" in err and not (tmp_path / "c").exists()


def test_sample_and_measure(capsys, tmp_path):
    """From a plan to metrics and a picture, as a person would."""
    plan, out = tmp_path / "full.safetensors", tmp_path / "out"
    assert run(capsys, "plan", "full", "--steps", 2, "-o", plan)[0] == 0
    args = ["sample", plan, "--images", 12, "-o", out, "--manifest", tmp_path / "m.json", "--grid", tmp_path / "g.png"]
    assert run(capsys, *args)[0] == 0
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    measured = ["metrics", tmp_path / "m.json", "--uncached", "full", "-o", tmp_path / "x.json"]
    status, err = run(capsys, *measured, "--extractor", "noto-emoji-cnn")
    assert status == 2 and "the reference of noto-emoji-cnn is of noto-emoji" in err.splitlines()[-1]
    assert run(capsys, *measured)[0] == 0
    assert "fashion-mnist-cnn" in (tmp_path / "x.json").read_text()  # the model's own
    status, err = run(capsys, "metrics", tmp_path / "m.json", "--uncached", "ful", "-o", tmp_path / "y.json")
    assert status == 2 and "no images of 'ful' among full" in err and not (tmp_path / "y.json").exists()
    args = ["metrics", tmp_path / "m.json", "--uncached", "full", "--extractor", "inception", "-o", tmp_path / "y.json"]
    assert "unknown extractor 'inception'" in run(capsys, *args)[1]
    status, err = run(capsys, *measured[:-1], tmp_path / "y.json", "--fid-infinity")
    assert status == 2 and re.search(r"FID∞ of \d+ features needs at least \d+ images, not 12", err)


def test_compiled_images_are_the_same_but_for_rounding(capsys, tmp_path):
    """They have a folder of their own, but for a rule, which decides at run time and is not compiled."""
    fixed, rule = tmp_path / "fora.safetensors", tmp_path / "rule.safetensors"
    model = ["--model", "pocket-uvit", "--steps", 4]
    assert run(capsys, "plan", "fora", *model, "--set", "interval=2", "-o", fixed)[0] == 0
    assert run(capsys, "plan", "teacache", *model, "-o", rule)[0] == 0
    found = []
    for more in ([], ["--compiled"]):
        args = ["sample", fixed, rule, "--images", 4, "-o", tmp_path / "out", "--manifest", tmp_path / "m.json"]
        assert run(capsys, *args, *more)[0] == 0
        found.append(json.loads((tmp_path / "m.json").read_text())["images"])
    plain, compiled = found
    assert plain["rule"] == compiled["rule"] and plain["fora"] != compiled["fora"]
    (a, _), (b, _) = (generate.read(x["fora"]) for x in found)
    assert np.abs(a.astype(int) - b).max() <= 1 and a.std() > 10


@pytest.mark.parametrize("command", ["latency", "sample -o out"])
def test_no_compiler(tmp_path, command):
    """In a process of its own, as torch looks for one when it is imported."""
    all_compute(protocol(2), BRANCHES).save(tmp_path / "p.safetensors")
    call = [sys.executable, "-m", "harmonica", *command.split(), "p.safetensors", "--compiled"]
    found = subprocess.run(call, cwd=tmp_path, env=os.environ | {"CXX": "/nowhere/c++"}, capture_output=True, text=True)
    assert found.returncode == 2 and "--compiled needs a C++ compiler, and none was found" in found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "out").exists()


def test_help_shows_examples_and_imports_no_torch():
    code = "import sys; from harmonica.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "examples:" in out and out.strip().endswith("False")


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and commands()[name].HELP in " ".join(text.split())
    assert f"example:\n  harmonica {name}" in text


def test_a_time_is_left_inside_a_run_of_the_workflow_only(capsys, monkeypatch):
    monkeypatch.delenv("HARMONICA_RUN", raising=False)
    status, err = run(capsys, "methods", "fora")
    assert status == 0 and "time:" not in err
    monkeypatch.setenv("HARMONICA_RUN", "12.5")
    status, err = run(capsys, "methods", "fora")
    (line,) = [x for x in err.splitlines() if x.startswith("time: ")]
    times = json.loads(line.removeprefix("time: "))
    assert status == 0 and times["run"] == 12.5 and 0 <= times["start_up_s"] <= times["total_s"]


def test_listing_methods_imports_no_torch(capsys):
    code = "import sys; from harmonica.cli import main; main(['methods']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "learning_to_cache" in out and out.strip().endswith("False")


def test_timing_without_a_run(capsys, tmp_path):
    status, err = run(capsys, "timing", tmp_path)
    assert status == 2 and "run the workflow first" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["drift", "p.safetensors", "--images", "0", "-o", "x.json"], "must be at least 1, got 0"),
        (["sample", "p.safetensors", "--images", "1", "--seed", "-1", "-o", "x"], "the seed must be in"),
        (["plan", "fora", "--seed", "-1", "-o", "x"], "the seed must be in"),
        (["reference", "x", "--side", "0", "-o", "x.npz"], "must be at least 1, got 0"),
    ],
)
def test_numbers_that_cannot_be(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    status, err = run(capsys, *args)
    assert status == 2 and says in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_files_that_are_not_what_they_should_be(capsys, tmp_path):
    """A manifest that is none, an output that is a folder, two plans of one name."""
    (tmp_path / "m.json").write_text("[1")
    assert (
        "is not a manifest" in run(capsys, "metrics", tmp_path / "m.json", "--uncached", "x", "-o", tmp_path / "o")[1]
    )
    missing = run(capsys, "metrics", tmp_path / "none.json", "--uncached", "x", "-o", tmp_path / "o")
    assert missing[0] == 2 and "No such file" in missing[1]
    (tmp_path / "folder").mkdir()
    status, err = run(capsys, "plan", "fora", "-o", tmp_path / "folder")
    assert status == 2 and len(err.strip().splitlines()) == 1
    for name in "ab":
        (tmp_path / name).mkdir()
        all_compute(protocol(4), BRANCHES).save(tmp_path / name / "p.safetensors")
    twice = [tmp_path / name / "p.safetensors" for name in "ab"]
    assert "two plans are named p" in run(capsys, "sample", *twice, "-o", tmp_path / "out")[1]
