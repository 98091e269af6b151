"""The workflow refuses a wrong configuration in one sentence, and plans the paper scale."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked import forks

from paper_tables.tables import known_tables

ROOT = Path(__file__).parent.parent.parent


def test_a_wrong_configuration_stops_snakemake_with_one_sentence(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--config", "imges=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    out = done.stdout + done.stderr
    assert done.returncode != 0 and "unknown configuration key 'imges'; did you mean 'images'?" in out
    assert "Traceback" not in out


def test_a_compression_that_no_job_of_the_scale_can_run(tmp_path):
    own = {"tables": {"table4": {"methods": ["full", {"full": {"compression": "fp8"}}]}}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "results/table4.csv",
        "--configfile",
        str(tmp_path / "own.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "fp8 runs on a GPU only" in done.stdout + done.stderr


def test_the_paper_scale_is_planned():
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--config", "scale=paper"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", [[], ["images=10", "precision={latency: bfloat16}"]])
def test_the_paper_scale_starts(tmp_path, given):
    """With its estimate; a dry run does not come that far. Its first job makes the plans of all tables: here of few
    rows."""
    few = {"table1": {"methods": ["full", {"fora": {"interval": 2}}]}}
    few |= {t: {"methods": ["full"]} for t in known_tables() if t not in ("table1", "transfer")}
    (tmp_path / "few.json").write_text(json.dumps({"tables": few}))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow" / "Snakefile"), "-d", str(tmp_path)]
    command += ["--cores", "1", "--until", "plans", "--configfile", str(tmp_path / "few.json")]
    command += ["--config", "scale=paper", *given, "--", "results/table1.csv"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "GPU-hours" in done.stdout + done.stderr, done.stdout + done.stderr
    assert list((tmp_path / "results" / "paper" / "plans").rglob("*fora*.safetensors"))


def jobs_of(*config: str) -> list[tuple[str, str]]:
    """The message of every job of table 1 at the paper scale, and the jobs' outputs that it waits for."""
    command = [sys.executable, "-m", "snakemake", "-n", "results/table1.csv", "--config", "scale=paper", *config]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^Job \d+: (.*)\nReason: (.*)", done.stdout, re.M)


@pytest.mark.parametrize("config", [(), ("force=true",)])
def test_nothing_is_trained_before_the_uncached_rows_are_checked(config):
    """Nor is another row sampled."""
    jobs = jobs_of(*config)
    checks, trainings, sampled = (
        [(message, waits) for message, waits in jobs if message.startswith(begins)]
        for begins in ("Comparing the uncached row", "Training the router", "Generating")
    )
    assert len(checks) == 4 and all("_full.json" in waits for _, waits in checks)
    assert len(trainings) == 16 and all("results/paper/checked/table1/" in waits for _, waits in trainings)
    first = [message for message, waits in sampled if "/checked/" not in waits]
    of_uncached = ["_full, from image" in message or ": converged, from image" in message for message in first]
    assert 0 < len(first) < len(sampled) and all(of_uncached)


def test_environment_file_and_lock_hold_together():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert {"pip": ["-r requirements.txt", "-e ."]} in environment["dependencies"]
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock and all("==" in line for line in lock.splitlines() if line.strip())


def commands_of(*args: str, **environment: str) -> list[list[str]]:
    """The words of every command that a dry run would give to the shell."""
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "--forceall", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    start = "Shell command: "
    words = [shlex.split(line.removeprefix(start)) for line in done.stdout.splitlines() if line.startswith(start)]
    words = [w for w in words if w != ["None"]]  # a rule that runs Python
    return [w[1:] if w[0].startswith("HARMONICA_GPUS=") else w for w in words]


def test_no_configured_string_or_path_reaches_the_shell(tmp_path):
    """A name may hold any characters: it is one word of a command, or refused."""
    hostile = "$(touch pwned) `id` '; rm -rf x # \""
    clip = json.dumps({"model": hostile, "pretrained": hostile})
    metrics = [c for c in commands_of("results/table2.csv", "--config", f"clip={clip}") if c[1] == "metrics"]
    assert metrics and all(c[c.index("--clip") + 1] == c[c.index("--clip-pretrained") + 1] == hostile for c in metrics)
    weights = tmp_path / hostile.replace("/", "")
    weights.mkdir()
    (weights / "DDIM20_router.pt").touch()
    figure = [c for c in commands_of("figures", HARMONICA_WEIGHTS=str(weights)) if c[1:3] == ["figure", "routers"]]
    assert len(figure) == 1 and figure[0][3] == str(weights / "DDIM20_router.pt")
    references = commands_of("results/table1.csv", "--config", "scale=paper", HARMONICA_WEIGHTS=str(weights))
    assert all(c[2].startswith(str(weights)) for c in references if c[1] == "reference")
    for key in ("model", "sampler"):
        cases = {"4": {"model": "pocket-dit", "steps": 4} | {key: hostile}}
        (tmp_path / "mine.yaml").write_text(json.dumps({"tables": {"table1": {"cases": cases}}}))
        command = [sys.executable, "-m", "snakemake", "-n", "--configfile", str(tmp_path / "mine.yaml")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and f"unknown {key}" in done.stdout + done.stderr


def test_the_committed_runs_compile_their_branches():
    """And have three training seeds; the default runs do neither."""
    own = ["--configfile", "workflow/config/reference.yaml"]
    compiled, plain = (commands_of("results/sweep.csv", *more) for more in (own, []))
    for commands, yes in ((compiled, True), (plain, False)):
        sampling = [c for c in commands if c[1] == "sample"]
        assert sampling and all(("--compiled" in c) == yes for c in sampling)
        assert any("seed2" in word for c in sampling for word in c) == yes


def in_another_place(folder: Path, *args: str, python: str = sys.executable) -> str:
    """The output of Snakemake elsewhere, in the C locale."""
    done = subprocess.run(
        [python, "-m", "snakemake", *args], cwd=folder, capture_output=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def total(out: str) -> int:
    """The jobs of a dry run."""
    (found,) = set(re.findall(r"^total +(\d+)$", out, re.M))
    return int(found)


def test_in_a_folder_of_ones_own(tmp_path):
    """The checkout and the folder have names with spaces and umlauts; a plan is really made there."""
    checkout, folder = tmp_path / "ein Chéckout", tmp_path / "meine Läufe"
    checkout.mkdir()
    folder.mkdir()
    for name in ("workflow", "harmonica", "baselines", "paper_tables", "environment.yml"):
        (checkout / name).symlink_to(ROOT / name)
    snakefile = ["-s", str(checkout / "workflow" / "Snakefile"), "-d", str(folder)]
    micro = ["--configfile", str(checkout / "workflow" / ".test" / "micro.yaml")]
    assert total(in_another_place(tmp_path, "-n", "results/table1.csv", *snakefile, *micro)) > 10
    in_another_place(tmp_path, "plans", "--cores", "1", *snakefile, *micro)
    plan = "fora-*/pocket-dit_ddim4_cfg1.3_fora-interval2.safetensors"
    assert list((folder / "results" / "pocket" / "plans").glob(plan)) and not (tmp_path / "results").exists()


MODULE = """
configfile: "mine.yaml"

module harmonica:
    snakefile: {snakefile!r}
    config: config["harmonica"]

use rule * from harmonica as harmonica_*

rule mine:
    input: "results/table1.csv"
    output: "mine.txt"
    shell: "cp {{input}} {{output}}"
"""


def test_as_a_module_of_another_workflow(tmp_path):
    """With the configuration that its workflow passes, and with its own."""
    micro = yaml.safe_load((ROOT / "workflow" / ".test" / "micro.yaml").read_text("utf-8"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"other": 1, "harmonica": micro}), "utf-8")
    snakefile = MODULE.format(snakefile=str(ROOT / "workflow" / "Snakefile"))
    (tmp_path / "Snakefile").write_text(snakefile, "utf-8")
    out = in_another_place(tmp_path, "-n", "mine.txt")
    assert "harmonica_train" in out and total(out) > 10 and "localrules directive" not in out
    own = snakefile.replace('    config: config["harmonica"]\n', "").replace('configfile: "mine.yaml"\n', "")
    (tmp_path / "Snakefile").write_text(own.replace(" as harmonica_*", ""), "utf-8")
    assert total(in_another_place(tmp_path, "-n", "mine.txt")) > total(out)  # the scale's own, not the micro one


def own_model(folder: Path) -> Path:
    """A copy of the pocket DiT with other weights, and pictures of its own that it is compared with."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file, save_file

    pocket, weights = ROOT / "harmonica" / "pocket" / "fashion-mnist", "transformer/diffusion_pytorch_model.safetensors"
    for part in ("transformer", "vae", "scheduler"):
        shutil.copytree(pocket / part, folder / part)
    shutil.copy(pocket / "train_images.npz", folder)
    state = load_file(folder / weights)
    state["proj_out_2.weight"] *= 1.01
    save_file(state, folder / weights, {"format": "pt"})
    (folder / "pictures").mkdir()
    with np.load(pocket / "train_images.npz") as f:
        for k, image in enumerate(f["images"][:32]):
            Image.fromarray(image).resize((32, 32)).save(folder / "pictures" / f"{k:02d}.png")
    about = {"title": "my DiT", "extractor": "fashion-mnist-cnn", "reference": "pictures"}
    (folder / "harmonica.yaml").write_text(yaml.safe_dump(about))
    return folder


def own_table(folder: Path, model: str) -> list[str]:
    """The options of Snakemake for a table of a model of one's own."""
    about = {
        "like": "table1", "images": 8, "cases": {"3": {"model": model, "steps": 3}},
        "methods": ["full", {"fora": {"interval": 2}}, {"harmonica": {"beta": 1.0, "rounds": 1, "batch": 2}},
                    {"learning_to_cache": {"beta": 1.0, "rounds": 1, "batch": 2}}],
        "sampling": {"chunk": 8, "batch": 8}, "latency": {"batch": 2, "rounds": 1, "max_rounds": 1},
        "converged": {"steps": 6, "images": 8},
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump({"tables": {"mine": about}}))
    return ["results/mine.csv", "-s", str(ROOT / "workflow" / "Snakefile"), "--configfile", "mine.yaml"]


@pytest.mark.slow
def test_a_table_of_a_model_of_ones_own(tmp_path, monkeypatch):
    """By its folder, relative to that of the run. Its reference is made of its own pictures."""
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    own_model(tmp_path / "mine")
    options = own_table(tmp_path, "mine")
    in_another_place(tmp_path, *options, "--cores", "2", python=forks().python)
    table = (tmp_path / "results" / "mine.md").read_text("utf-8")
    assert "my DiT, 32×32" in table and "paper" not in table.split("The paper's claims")[0]
    record = json.loads((tmp_path / "results" / "pocket" / "mine.provenance.json").read_text("utf-8"))
    assert re.fullmatch("pictures-[0-9a-f]{8}", record["references"]["3"]["data"])
    assert all(p["model"].startswith("dit-") for p in record["protocols"].values())
    assert "Nothing to be done" in in_another_place(tmp_path, *options, "-n")
    (tmp_path / "mine" / "pictures" / "00.png").unlink()
    jobs = set(re.findall(r"^Job \d+: (\w+)", in_another_place(tmp_path, *options, "-n"), re.M))
    assert jobs >= {"Features", "Measuring"} and not jobs & {"Training", "Generating", "Making"}


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"extractor": "fashion"}, "unknown extractor 'fashion'"),
        ({}, "my DiT has nothing that its images are compared with"),
        ({"reference": "nowhere"}, "nowhere, the reference of"),
    ],
)
def test_a_model_of_ones_own_that_cannot_be_measured(tmp_path, monkeypatch, about, says):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    (own_model(tmp_path / "mine") / "harmonica.yaml").write_text(yaml.safe_dump({"title": "my DiT"} | about))
    command = [sys.executable, "-m", "snakemake", "-n", *own_table(tmp_path, "mine")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and says in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_jobs_take_the_gpus_of_the_machine(tmp_path):
    """A script in place of nvidia-smi lists four: the longest training is shared by all of them."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "$i, GPU-$i"; done\n')
    smi.chmod(0o755)
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "results/table1.csv", "--config", "scale=paper"]
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HARMONICA_SAMPLES": "/scratch/my samples"}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"HARMONICA_GPUS=(\d) harmonica (\w+) (.*)", done.stdout)
    trainings = {gpus: rest for gpus, name, rest in commands if name == "plan" and gpus != "0"}
    assert max(trainings) == "4" and "--processes 4 " in trainings["4"]
    sampling = [(gpus, rest) for gpus, name, rest in commands if name == "sample"]
    assert {gpus for gpus, _ in sampling} == {"1"} and all("-o '/scratch/my samples' " in rest for _, rest in sampling)
