"""What a card and `harmonica show` say: what is in the file, and what was measured of exactly this plan."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import protocol

from harmonica.cli import main
from harmonica.methods import get_method
from harmonica.models import get_model
from harmonica.plan import REUSE, Origin, Plan, Protocol, Router
from harmonica.sharing import card, facts, files, measured, shipped_plans, table_files
from harmonica.utils import ROOT, UserError, file_hash
from harmonica.utils.records import CHECKSUM, stamped

SHIPPED = shipped_plans.FOLDER / "pocket-dit-2x.safetensors"
FRONTIER = measured.REFERENCE / "frontier.csv"


def plan_for(model: str, rule=None, **origin) -> Plan:
    about = get_model(model)
    actions = np.zeros((4, len(about.layout.branches)), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, Protocol(model, about.sampler, 4, about.cfg), Origin("by hand", **origin))


def section(plan, quality=None) -> str:
    return card.section("p.safetensors", "ada/plans", plan, "0" * 64, quality)


def test_a_card_has_all_that_is_in_the_file():
    plan, digest = Plan.load(SHIPPED), file_hash(SHIPPED)
    quality = measured.quality_of(plan, measured.reference_tables())
    text = card.section(SHIPPED.name, "ada/plans", plan, digest, quality).replace("\\", "")
    o = plan.origin
    assert digest in text and "ddim, 20 steps, guidance scale 1.3" in text and "theoretical speed-up 1.96x" in text
    for part in (o.settings, o.notes, o.cost, o.hardware, o.versions):
        assert all(f"{k} = {v}" in text for k, v in part.items())
    assert f"harmonica pull ada/plans {SHIPPED.name}" in text and "harmonica.enable_cache(pipe, " in text


def test_quality_is_that_of_the_row():
    """Number by number, from the CSV."""
    plan = Plan.load(SHIPPED)
    quality = measured.quality_of(plan, [FRONTIER])
    table = measured.read(FRONTIER)
    slug = measured.slugs_of(plan, table_files.read_provenance(FRONTIER))
    row = table[table.slugs == tuple(slug)].iloc[0]
    said = dict(quality.rows())
    half = (row.PSNR_high - row.PSNR_low) / 2
    assert said["PSNR ↑"] == f"{row.PSNR:.2f} ±{half:.2f}"
    full = table[(table["name"] == "full") & (table.case == row.case)].iloc[0]
    assert said["FID ↓"].startswith(f"{row.FID:.3f} ±") and f"(uncached: {full.FID:.3f} ±" in said["FID ↓"]
    assert f"{row.samples} images" in quality.conditions() and "20 uncached steps of DDIM" in quality.conditions()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.with_protocol(cfg=1.4),
        lambda p: p.with_protocol(sampler="dpmsolver++"),
        lambda p: p.with_origin(seed=1),
        lambda p: p.with_origin(method="fora"),
        lambda p: p.with_origin(settings=p.origin.settings | {"target_cur": 50.9}),
        lambda p: p.with_origin(cost=p.origin.cost | {"training_s": 26.28}),
        lambda p: replace(p, actions=np.where(np.arange(20)[:, None] > 17, 0, p.actions)),
    ],
)
def test_what_is_not_exactly_a_row_has_not_been_measured(change):
    plan = change(Plan.load(SHIPPED))
    assert measured.quality_of(plan, measured.reference_tables()) is None
    assert "has not been measured" in section(plan) and "PSNR" not in section(plan)


def test_a_heuristic_made_again_is_its_row(tmp_path):
    """Whatever the versions of packages are now; the table with the most images is taken."""
    from harmonica.experiments import Experiment

    made, _ = Experiment.of("pocket-dit", "ddim", 20, 1.3, "fora", {"target_cur": 33.9}).make()
    quality = measured.quality_of(made.with_origin(versions={"torch": "0"}), measured.reference_tables())
    assert quality.table == "frontier" and quality.row["method"] == get_method("fora")().label()


def test_a_mean_over_training_seeds_is_of_no_single_plan():
    path = measured.REFERENCE / "table1.csv"
    about = table_files.read_provenance(path)
    table = measured.read(path)
    line = next(slugs for slugs in table.slugs if len(slugs) > 1)
    p, o = about["protocols"][line[0]], about["origins"][line[0]]
    branches = len(get_model(p["model"]).layout.branches)
    plan = Plan(np.zeros((p["steps"], branches), np.uint8), Protocol(**p), Origin(**o))
    assert measured.slugs_of(plan, about) == [line[0]] and measured.quality_of(plan, [path]) is None


def test_a_table_of_ones_own(tmp_path, capsys):
    for path in (FRONTIER, FRONTIER.with_suffix(".provenance.json")):
        shutil.copy(path, tmp_path / path.name.replace("frontier", "mine"))
    assert main(["show", str(SHIPPED), "--quality", str(tmp_path / "mine.csv")]) == 0
    out = capsys.readouterr().out
    assert "Table mine, " in out and str(tmp_path) not in out
    about = tmp_path / "mine.provenance.json"
    found, written = json.loads(about.read_text()), about.read_text()

    def said() -> str:
        assert main(["show", str(SHIPPED), "--quality", str(tmp_path / "mine.csv")]) == 2
        return capsys.readouterr().err

    about.write_text(json.dumps(found | {"written": "2030-01-01"}))
    assert "is not the provenance of a table as it was written: its checksum differs" in said()
    del found[CHECKSUM]
    about.write_text(json.dumps(found))
    assert "an older version wrote it, without checksum" in said()
    about.write_text(json.dumps(stamped({k: v for k, v in found.items() if k != "commit"})))
    assert "it lacks configuration, commit, date" in said()
    about.write_text(
        json.dumps(stamped(found | {"config": {k: v for k, v in found["config"].items() if k != "cases"}}))
    )
    assert "another version made" in said()
    about.write_text(written)
    table = tmp_path / "mine.csv"
    table.write_bytes(table.read_bytes().replace(b"1", b"2", 1))
    assert "is not the table that its provenance is of: its checksum differs" in said()


def test_show_says_no_fact_twice(capsys):
    assert main(["show", str(SHIPPED)]) == 0
    out = capsys.readouterr().out
    assert file_hash(SHIPPED) in out and "quality: PSNR ↑ " in out
    names = [line.partition(":")[0] for line in out.splitlines() if re.match("[a-z0-9]+: ", line)]
    assert len(names) == len(set(names)) and {"seed", "settings", "cost", "hardware", "versions"} <= set(names)
    assert out.count("guidance scale") == out.count("theoretical speed-up") == 1


def test_show_a_router(tmp_path, capsys):
    shape = 4, len(get_model("pocket-dit").layout.branches)
    for notes, says in (({"threshold": 0.5}, "at its threshold, 0.5: CUR 75.00 %"), ({}, "16 branches")):
        Router(np.zeros(shape, np.float32), protocol(4), Origin("by hand", notes=notes)).save(
            tmp_path / "r.safetensors"
        )
        assert main(["show", str(tmp_path / "r.safetensors")]) == 0
        out = capsys.readouterr().out
        assert out.startswith("router of by hand for pocket-dit, ddim, 4 steps") and says in out.splitlines()[0]


def test_a_model_that_is_not_known_here(tmp_path, capsys):
    """A plan of somebody's own model has a CUR, and no MACs."""
    plan = plan_for("pocket-dit").with_protocol(model="theirs")
    plan.save(tmp_path / "p.safetensors")
    assert main(["show", str(tmp_path / "p.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "by hand for theirs, ddim" in out and "CUR 50.00 %" in out and "MACs" not in out
    assert "pipe = ...  # diffusers' pipeline of theirs" in section(plan)


def test_front_matter():
    """The base model where the hub has it; pocket models are in no repository."""

    def front(*models: str) -> dict:
        text = card.readme({}, [plan_for(m).protocol for m in models])
        return yaml.safe_load(text.split("---\n")[1])

    assert front("dit-xl-2-256")["base_model"] == ["facebook/DiT-XL-2-256"]
    assert "base_model" not in front("pocket-dit", "pocket-uvit") and "base_model" not in front("uvit-h-2-256")
    assert front("pocket-dit")["library_name"] == "harmonica-bench"


def test_a_section_is_replaced_where_it_stands():
    one, two = (card._marked(name, name) for name in "ab")
    text = card.readme({"a": one, "b": two}, [], "before\n") + "after\n"
    assert text == f"before\n\n{one}\n\n{two}\nafter\n"
    again = card.readme({"a": card._marked("a", "new \\1")}, [], text)
    assert again == text.replace(f"\n{'a'}\n", "\nnew \\1\n")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("/home/someone/x.npz", True), ("from /data/x/y", True), ("~/plans/x", True), ("~someone/x", True),
        ("C:\\plans\\x", True), ("file:///tmp/x", True), ("'/mnt/a/b'", True),
        ("facebook/DiT-XL-2-256", False), ("1/2", False), ("weights/x.npz", False), ("https://example.org/a/b", False),
        ("a / b", False), ("dpmsolver++", False),
    ],
)  # fmt: skip
def test_local_paths(text, local):
    for origin in (Origin("x", notes={"from": [{"a": text}]}), Origin("x", settings={text: 1})):
        assert bool(facts.local_paths(origin)) == local
    plan = plan_for("pocket-dit", notes={"from": text})
    if local:
        with pytest.raises(UserError, match="p.safetensors is not published"):
            section(plan)
    else:
        assert "p.safetensors" in section(plan)


def test_no_card_of_this_checkout_names_it():
    for path in shipped_plans.paths():
        plan = files.load(path)
        text = card.readme({"p": section(plan, measured.quality_of(plan, [FRONTIER]))}, [plan.protocol])
        assert str(ROOT) not in text and "/home" not in text


def test_texts_of_others_do_no_harm(tmp_path, capsys):
    """Neither to a terminal, nor to a table in Markdown."""
    plan = plan_for("pocket-dit", notes={"a": "\x1b[2J", "b": "x | y\n<script>"})
    plan.save(tmp_path / "p.safetensors")
    assert main(["show", str(tmp_path / "p.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (line,) = [x for x in section(plan).splitlines() if x.startswith("| notes")]
    assert "\x1b" not in line and "x \\| y" in line and "<script>" not in line.replace("\\<", "")


@pytest.mark.parametrize("model", ["pocket-dit", "pocket-pixart"])
def test_the_snippet_runs(model, tmp_path):
    """In a process of its own, from the checkout, as a reader of the card would."""
    path = shipped_plans.FOLDER / f"{model}-3x.safetensors"
    text = card.section(path.name, "ada/plans", Plan.load(path), file_hash(path), None)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace(path.name, str(path)) + "\nprint(len(images), pipe.transformer.__class__.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 DiT" if model == "pocket-dit" else "1 PixArt")


def test_other_snippets():
    """A sampler that is not the pipeline's own, a model without a pipeline, a rule."""
    other = plan_for("pocket-dit").with_protocol(sampler="dpmsolver++")
    assert "pipe.scheduler = ...  # of dpmsolver++" in section(other)
    assert "diffusers has no pipeline of pocket U-ViT" in section(plan_for("pocket-uvit"))
    hub = section(plan_for("dit-xl-2-256"))
    assert 'harmonica.load_pipeline("facebook/DiT-XL-2-256")' in hub and "num_inference_steps=4" in hub
    assert "pipe = ...  # diffusers' pipeline of PixArt-α, 512 pixels" in section(plan_for("pixart-alpha-512"))
