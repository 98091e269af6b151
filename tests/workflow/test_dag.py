"""The DAG, truly run at a micro size, in a copy of the project to which a user adds a baseline of their own."""

import base64
import io
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from browser import opened
from PIL import Image
from project import Project

pytestmark = pytest.mark.slow
TOY = '''"""A toy: reuse every MLP at odd steps."""

from dataclasses import dataclass

from harmonica.methods import Method, Task
from harmonica.plan import REUSE, Plan


@dataclass(frozen=True)
class Toy(Method):
    title = "Toy"

    def make(self, task: Task) -> Plan:
        actions = task.actions()
        actions[1::2, 1::2] = REUSE
        return task.plan(actions)
'''


FEW = ("full", "fora", "harmonica")  # methods of which one is trained, where others would show nothing more


def few(methods: list) -> list:
    return [m for m in methods if next(iter(m if isinstance(m, dict) else [m])) in FEW]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    p = Project(tmp_path_factory.mktemp("clone") / "harmonica-bench")
    status, out = p.snakemake("results/table1.csv")
    logs = "\n".join(f"{f}\n{f.read_text()}" for f in p.folder.rglob("logs/**/*.log")) if status else ""
    assert status == 0, out + logs
    return p


def test_table(project):
    t = project.table()
    assert len(t) == 20 and list(t.case.unique()) == [4, 3]
    assert (t.samples == 24).all() and (t.extractor == "fashion-mnist-cnn").all()
    assert t.steps.tolist()[:2] == [4, 3]
    full = t[t.method == "Full"]
    assert (full.CUR == 0).all() and (full.speedup == 1).all() and full.PSNR.isna().all()
    others = t[~t.method.isin(["Full"])]
    assert (others.PSNR < 80).all() and (others.PSNR_worst <= others.PSNR).all() and (t.PSNR_converged < 40).all()
    assert (t.sampler == t.method.map({"DPM-Solver++": "DPM-Solver++"}).fillna("DDIM")).all()
    assert (t.latency_s > 0).all() and t.FID.between(0, 1e3).all()
    for k in ("IS", "FID", "sFID", "FID_uncached", "precision", "recall", "agreement", "PSNR_converged"):
        assert ((t[f"{k}_low"] <= t[k]) & (t[k] <= t[f"{k}_high"])).all()
    assert (full.FID_uncached < 1e-5).all() and (others.FID_uncached > 1e-5).all()
    assert (full[["dFID", "dFID_low", "dFID_high"]] == 0).all(axis=None) and (others.dFID_low < others.dFID_high).all()
    assert others.groupby("case").best_FID.any().all() and full.best_FID.isna().all()
    rule = t[t.method == "EasyCache"].iloc[0]  # it decides at run time: what its images did is counted
    assert 0 < rule.CUR <= 50 and rule.CUR_sd >= 0 and t.CUR_sd.notna().sum() == 1
    harmonica, control = (t[t.method == m].reset_index() for m in ("HarmoniCa", "Random plan"))
    assert (harmonica.GMACs == control.GMACs).all() and (harmonica.CUR == control.CUR).all()
    results = project.folder / "results" / "pocket"
    assert (t.scale == "pocket").all()
    assert (results / "table1.csv").read_bytes() == (project.folder / "results" / "table1.csv").read_bytes()
    for name in ("speedup", "real", "router", "samples"):
        assert (results / "figures" / f"table1-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| HarmoniCa | 4 |" in (results / "table1.md").read_text()
    record = json.loads((results / "table1.provenance.json").read_text())
    assert record["config"]["images"] == 24 and len(record["origins"]) == len(record["protocols"]) == 20


def test_timing(project):
    command = [sys.executable, "-m", "harmonica", "timing", "results"]
    out = subprocess.run(command, cwd=project.folder, capture_output=True, text=True).stdout
    assert all(rule in out for rule in ("plan", "sample", "metrics", "latency", "table")) and "start-up" in out


def test_a_second_run_does_nothing(project):
    assert project.planned() == []


def test_a_run_killed_while_plans_were_made_goes_on(project):
    """Snakemake marks what it began; the plans are there, and what comes after them is made."""
    results = project.folder / "results"
    gone = [results / "table1.csv", results / "pocket" / "table1.csv"]
    before = [path.read_bytes() for path in gone]
    for path in (results / "pocket" / "plans").glob("*/*.safetensors"):
        name = base64.urlsafe_b64encode(str(path.relative_to(project.folder)).encode()).decode()
        (project.folder / ".snakemake" / "incomplete" / name).touch()
    for path in gone:
        path.unlink()
    jobs = dict(project.planned())
    for path, data in zip(gone, before, strict=True):
        path.write_bytes(data)
    assert jobs == {"table": "1", "publish": "1", "total": "2"}


def test_a_changed_setting_runs_only_what_depends_on_it(project):
    changed = {"fora": {"interval": {"4": 3, "3": 2}}}
    project.write(lambda methods: [changed if "fora" in m else m for m in methods])
    try:
        jobs = {rule: int(count) for rule, count in project.planned()}
    finally:
        project.write()
    # the heuristics' plans, two shards and two cases' metrics (of images that are mostly there), what compares rows
    assert jobs == {"plans": 1, "sample": 2, "metrics": 2, "latency": 1, "table": 1, "publish": 1, "total": 8}


def test_another_precision_of_images_trains_nothing(project):
    jobs = {rule: int(count) for rule, count in project.planned("--config", "precision={sampling: bfloat16}")}
    assert jobs == {"sample": 3, "metrics": 2, "table": 1, "publish": 1, "total": 7}  # and the converged solutions
    jobs = {rule: int(count) for rule, count in project.planned("--config", "precision={latency: bfloat16}")}
    assert jobs == {"latency": 1, "table": 1, "publish": 1, "total": 3}
    assert ["train", "4"] in project.planned("--config", "precision={training: bfloat16}")


def test_cores_and_shards_do_not_change_the_table(project, tmp_path):
    """One core, from nothing, in another folder and with all images in one job: the same numbers but for times."""
    alone = Project(tmp_path / "harmonica-bench")
    alone.write(few, cases=lambda cases: {"4": cases["4"]}, sampling={"minutes": 2})
    status, out = alone.snakemake("results/table1.csv", cores="1")
    assert status == 0, out
    found, t = alone.table(), project.table()
    other = ["latency_s", "speedup", "speedup_q1", "speedup_q3", "training_s", "heading"]  # times; no heading is here
    same = [c for c in found if c not in other and not c.startswith("best_")]  # the best of fewer rows
    expected = t[t.method.isin(found.method) & (t.case == 4)].reset_index(drop=True)
    assert len(found) == len(FEW) and list((alone.folder / "results").rglob("samples/**/shard1.json")) == []
    pd.testing.assert_frame_equal(found[same], expected[same])


def test_table_of_captions(project):
    status, out = project.snakemake("results/table2.csv")
    assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    t = pd.read_csv(project.folder / "results" / "table2.csv")
    assert len(t) == 7 and (t.clip_model == "noto-emoji").all() and (t.extractor == "noto-emoji-cnn").all()
    assert t.CLIP.between(0, 100).all() and t[t.method == "Full"].PSNR.isna().all()
    assert t.PSNR_converged.notna().equals(t.case == "dpm-4")  # SA-Solver has no solution of a seed
    assert set(t.sampler) == {"SA-Solver", "DPM-Solver++"}
    assert t[t.method == "FORA"].CUR.tolist() == pytest.approx([100 / 3, 25], rel=1e-4)  # also at countdown index 0
    assert (project.folder / "results" / "pocket" / "figures" / "table2-samples.png").stat().st_size > 10_000


def test_table_of_long_skips(project):
    status, out = project.snakemake("results/table3.csv")
    assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    t = pd.read_csv(project.folder / "results" / "table3.csv").set_index("method")
    assert len(t) == 4 and (t.model == "pocket U-ViT").all() and (t.sampler == "DPM-Solver").all()
    assert 0 < t.CUR["Learning-to-Cache"] < 33.4  # it routes evaluations 2 and 4 of 6
    assert t.CUR["Faster Diffusion"] == pytest.approx(100 * 3 * 10 / (6 * 18), rel=1e-3)


def test_a_changed_heuristic_renews_its_own_row(project):
    """Although all heuristics' plans are one job; with each row's images in a job of its own, as at the paper scale."""
    assert project.planned(table="table3") == []
    changed = {"deepcache": {"interval": 3}}
    project.write(lambda methods: [changed if "deepcache" in m else m for m in methods], "table3")
    try:
        jobs = {rule: int(count) for rule, count in project.planned(table="table3")}
    finally:
        project.write()
    assert jobs == {"plans": 1, "sample": 1, "metrics": 1, "latency": 1, "table": 1, "publish": 1, "total": 6}


def test_tables_of_compressions(project):
    """The router of the last row of table 5 is trained on the quantised model, whose images are its own."""
    status, out = project.snakemake("results/table4.csv", "results/table5.csv")
    assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    t = pd.read_csv(project.folder / "results" / "table4.csv")
    assert len(t) == 4 and t.FID_uncached.nunique() == 4 and (t.speedup > 0).all()
    quantised, pruned, cached = (t.iloc[k] for k in (1, 2, 3))
    assert 1.5 < quantised.size_ratio < 4.1 and quantised.GMACs == t.GMACs[0] and quantised.bit_operations > 2
    assert pruned.GMACs < t.GMACs[0] and pruned.size_ratio > 1 and pruned.training_images > 0
    assert cached.CUR > 0 and cached.size_ratio == 1
    t = pd.read_csv(project.folder / "results" / "table5.csv")
    assert t.method.tolist() == ["Full", "HarmoniCa", "EfficientDM W4A8", "EfficientDM W4A8 + HarmoniCa"]
    assert (t.size_ratio[2:] > 4).all() and (t.size_ratio[:2] == 1).all() and (t.bit_operations[2:] > 5).all()
    assert (t.speedup_float32 == t.speedup).all() and (t.speedup_bfloat16 > 0).all()
    assert "Real × of bfloat16 is over the uncached row computed in that precision" in (
        project.folder / "results" / "table5.md"
    ).read_text("utf-8")
    assert t.interaction.notna().tolist() == [False, False, False, True]
    assert (t.FID_uncached[1:] > 1e-5).all() and t.FID_uncached.nunique() == 4
    record = json.loads((project.folder / "results" / "pocket" / "table5.provenance.json").read_text())
    ((_, about),) = record["compressions"].items()
    on = [o["notes"].get("compression", {}).get("checksum") for o in record["origins"].values()]
    assert sorted(on, key=str) == sorted([None, None, about["checksum"], about["checksum"]], key=str)


def test_tables_of_costs_and_of_single_choices(project):
    status, out = project.snakemake("results/table6.csv", "results/ablations.csv")
    assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    costs = pd.read_csv(project.folder / "results" / "table6.csv")
    assert len(costs) == 3 and (costs.training_s > 0).all() and costs.paper_time_h.count() == 2
    t = pd.read_csv(project.folder / "results" / "ablations.csv")
    assert t.case.tolist() == ["lambda"] * 3 + ["threshold"] * 3
    assert t[t.method == "HarmoniCa"].groupby("case").FID.first().nunique() == 1  # one experiment in two blocks


def test_a_table_of_ones_own(project):
    """Its rows are those of table 1 where they are the same: nothing is trained or generated again but what is new.

    That is a method of one file and one line, and another training seed: a learned row over two seeds is their mean, a
    heuristic's stays one."""
    images = project.folder / "results" / "pocket" / "samples" / "images"
    before = {p: p.stat().st_mtime_ns for p in images.rglob("*.npz")}
    config = yaml.safe_load((project.folder / "micro.yaml").read_text("utf-8"))
    methods = ["full", {"fora": {"interval": 2}}, {"harmonica": {"beta": 1.0, "rounds": 2, "batch": 2, "lr": 1.5}}]
    own = {"like": "table1", "seeds": [0, 1], "methods": [*methods, "toy"], "cases": {"4": {}}}
    config["tables"] |= {"my-own": own}
    (project.folder / "baselines" / "toy.py").write_text(TOY)
    try:
        (project.folder / "micro.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        planned = dict(project.planned(table="my-own"))
        assert planned["train"] == "1" and {"sample", "table"} <= planned.keys()
        status, out = project.snakemake("results/my-own.csv", "results/pocket/figures/my-own-speedup.png")
        assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    finally:
        (project.folder / "baselines" / "toy.py").unlink()
        project.write()
    t = pd.read_csv(project.folder / "results" / "my-own.csv")
    assert t.method.tolist() == ["Full", "FORA", "HarmoniCa", "Toy"] and (t.case == 4).all() and (t.samples == 24).all()
    assert t.CUR[t.method == "Toy"].tolist() == [25]
    assert before.items() < {p: p.stat().st_mtime_ns for p in images.rglob("*.npz")}.items()
    assert "my-own, laid out as table 1, pocket scale" in (project.folder / "results" / "my-own.md").read_text("utf-8")
    assert (project.folder / "results" / "pocket" / "figures" / "my-own-samples.png").is_file()
    record = json.loads((project.folder / "results" / "pocket" / "my-own.provenance.json").read_text())
    assert record["config"]["like"] == "table1"
    learned = t.method == "HarmoniCa"
    assert (t.seeds == learned.map({True: 2, False: 1})).all() and t.FID_sd.notna().equals(learned)
    every, row = pd.DataFrame(record["by_training_seed"]), t[learned].iloc[0]
    FID = every[every.method == "HarmoniCa"].FID
    assert len(FID) == 2 and row.FID == pytest.approx(FID.mean(), rel=1e-5)
    assert row.FID_sd == pytest.approx(FID.std(), rel=1e-4)


def test_report(project, tmp_path):
    """One page with every figure and table in it; headless Chromium shows it without anything missing."""
    figures = [f"results/pocket/figures/{name}.png" for name in ("sweep", "memory", "lambda", "drift-4")]
    targets = ["results/table1.csv", "results/table6.csv", *figures]
    status, out = project.snakemake(*targets)
    assert status == 0, out + "\n".join(f.read_text() for f in project.folder.rglob("logs/**/*.log"))
    report = ["--configfile", "micro.yaml", "--report", str(tmp_path / "report.html")]  # it needs no --cores
    done = subprocess.run([sys.executable, "-m", "snakemake", *targets, *report], cwd=project.folder, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(project.folder)})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("sweep", "memory", "lambda", "drift-4"):
        assert (project.folder / "results" / "pocket" / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "report.html").read_text()
    for name in ("table1-speedup.png", "table1-real.png", "table1-router.png", "table1-samples.png", "sweep.png",
                 "table1.html", "table6.html", "table1.provenance.json"):  # fmt: skip
        assert name in page
    assert not re.findall(r'(?:src|href)="(?!data:|#|https?:|javascript:)[^"]+"', page)
    pictures = re.findall(r"data:image/png;(?:charset=[\w-]+;)?(?:filename=[^;,]*;)?base64,([A-Za-z0-9+/=]+)", page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(p))).size for p in pictures]
    assert len(sizes) >= 10 and all(min(s) >= 200 for s in sizes)  # 2 tables' figures, and four of no table
    dom = opened(tmp_path / "report.html", tmp_path / "report.png")
    assert "Figures of tables" in dom and "Provenance" in dom
