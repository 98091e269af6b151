"""Models of one's own: a folder is a model by its content, in every process, or is refused in one sentence."""

import shutil
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from harmonica.cli import main
from harmonica.evaluation import generate
from harmonica.experiments import Experiment
from harmonica.models import MODELS, catalog, convert, get_model, own
from harmonica.models.loading import load_backbone
from harmonica.plan import Plan
from harmonica.utils import UserError, described, plugins

POCKET = Path(MODELS["pocket-dit"].source)
WEIGHTS = Path("transformer") / "diffusion_pytorch_model.safetensors"


def another_process() -> None:
    own._known.clear()
    own._named.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of what is loaded of the pocket DiT, and weights of its own to be noted in."""
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    another_process()
    for part in ("transformer", "vae", "scheduler"):
        shutil.copytree(POCKET / part, tmp_path / "mine" / part)
    return tmp_path / "mine"


def change(folder: Path, factor: float = 1.01) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["proj_out_2.weight"] *= factor
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def run(capsys, *args) -> tuple[int, str]:
    status = main([str(a) for a in args])
    return status, capsys.readouterr().err


def test_a_model_is_its_content(folder, tmp_path):
    model = get_model(str(folder))
    assert (model.kind, model.resolution, model.title, model.schedule) == ("dit", 32, "mine", "linear")
    assert own.NAME.fullmatch(model.name) and model.classes == 10
    shutil.copytree(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "transformer" / "README.md").write_text("a copy")
    assert get_model(str(tmp_path / "elsewhere")).name == model.name
    change(folder)
    assert get_model(str(folder)).name != model.name


def test_images_are_those_of_the_same_weights(folder):
    plans = [Experiment.of(m, "ddim", 3, 1.3, "full", {}).make()[0] for m in ("pocket-dit", str(folder))]
    assert plans[1].protocol.model == get_model(str(folder)).name
    both = [generate.in_memory(p, 2, generate.load_parts(p.protocol.model)) for p in plans]
    assert np.array_equal(both[0][0], both[1][0]) and both[0][0].std() > 0


def test_a_plan_finds_its_model_in_other_processes(folder, tmp_path, capsys, monkeypatch):
    """By its name alone, also where the folder has been named relative to another one; as long as it is that model."""
    monkeypatch.chdir(tmp_path)
    plan = tmp_path / "p.safetensors"
    assert run(capsys, "plan", "fora", "--model", "mine", "--steps", 3, "-o", plan)[0] == 0
    name = Plan.load(plan).protocol.model
    another_process()
    monkeypatch.chdir("/")
    assert run(capsys, "sample", plan, "--images", 2, "-o", tmp_path / "s")[0] == 0
    assert main(["show", str(plan)]) == 0 and name in capsys.readouterr().out
    shutil.copytree(folder, tmp_path / "copy")
    change(folder)
    another_process()
    status, err = run(capsys, "sample", plan, "--images", 2, "-o", tmp_path / "s2")
    assert status == 2 and f"held the model {name}, and now holds another one" in err and err.count("\n") == 1
    status, err = run(capsys, "sample", plan, "--model", folder, "--images", 2, "-o", tmp_path / "s2")
    assert status == 2 and get_model(str(folder)).name in err and err.count("\n") == 1
    shutil.rmtree(folder)
    another_process()
    status, err = run(capsys, "latency", plan)
    assert status == 2 and f"the model {name} was in {folder}, which is no longer there" in err
    assert run(capsys, "sample", plan, "--model", tmp_path / "copy", "--images", 2, "-o", tmp_path / "s2")[0] == 0


def test_original_checkpoints(folder):
    """Of a DiT with the names of the original code, and of a U-ViT, whose names are kept."""
    expected = dict(load_backbone(MODELS["pocket-dit"]).named_parameters())
    convert.to_original_file(POCKET / "transformer", folder / "mine.pt")
    (folder / WEIGHTS).unlink()
    model = get_model(str(folder))
    assert model.name != get_model("pocket-dit").name and load_backbone(model).original
    found = dict(load_backbone(model).named_parameters())
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    uvit = Path(MODELS["pocket-uvit"].source) / "transformer"
    (folder / "mine.pt").unlink()
    torch.save(load_file(uvit / WEIGHTS.name), folder / "transformer" / "uvit.pth")
    shutil.copy(uvit / "config.json", folder / "transformer" / "config.json")
    shutil.rmtree(folder / "scheduler")
    model = get_model(str(folder))
    assert (model.kind, model.sampler, model.schedule) == ("uvit", "dpm-solver", "scaled_linear")
    expected = dict(load_backbone(MODELS["pocket-uvit"]).named_parameters())
    assert all(torch.equal(p, expected[k]) for k, p in load_backbone(model).named_parameters())


def test_what_a_folder_says_of_its_model(folder, tmp_path):
    """Also in a folder of its own, beside a pipeline that nobody may write to."""
    (tmp_path / "about").mkdir()
    (tmp_path / "about" / "pictures").mkdir()
    about = {
        "source": "../mine",
        "title": "Mine",
        "extractor": "inception-v3-compat",
        "reference": "pictures",
        "cfg": 2,
    }
    (tmp_path / "about" / "harmonica.yaml").write_text(yaml.safe_dump(about))
    model = get_model(str(tmp_path / "about"))
    assert (model.title, model.extractor, model.cfg) == ("Mine", "inception-2015-12-05", 2.0)
    assert model.reference == str(tmp_path / "about" / "pictures") and model.name == get_model(str(folder)).name
    assert model.training_images.resolve() == (folder / "train_images.npz").resolve()
    (tmp_path / "about" / "train_images.npz").touch()  # where a user may write
    assert get_model(str(tmp_path / "about")).training_images == tmp_path / "about" / "train_images.npz"
    before = model.data_set
    (tmp_path / "about" / "pictures" / "a.png").write_bytes(b"x")
    assert get_model(str(tmp_path / "about")).data_set != before


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("transformer/config.json", None, "is not a model: it has no transformer/config.json"),
        ("transformer/config.json", "{", "is not the configuration of a transformer"),
        ("transformer/config.json", '{"_class_name": "Flux"}', "is of Flux: a model is a DiT, a PixArt or a U-ViT"),
        ("transformer/config.json", '{"num_embeds_ada_norm": 10, "sample_size": 8}', "is not the configuration of a d"),
        ("transformer/config.json", '{"caption_channels": 8, "sample_size": 8}', "name its captions in"),
        (str(WEIGHTS), None, "has no weights, neither safetensors nor an original checkpoint (.pt)"),
        ("vae/config.json", None, "is not a model: it has no vae/config.json"),
        ("vae/config.json", "{}", "it has no block_out_channels"),
        ("vae/config.json", '{"block_out_channels": [8, 8], "latent_channels": 16}', "16 latent channels, and the dit"),
        ("scheduler/scheduler_config.json", '{"beta_start": 1}', "has a noise schedule that is not known here"),
        ("scheduler/scheduler_config.json", '{"prediction_type": "v_prediction"}', "only models that predict noise"),
        ("transformer/config.json", '{"num_embeds_ada_norm": 10, "activation_fn": "gelu"}', "activation_fn gelu: "),
        ("transformer/config.json", '{"num_embeds_ada_norm": 10, "in_channels": 16}', "in_channels 16: the backbones"),
        ("harmonica.yaml", "a: [", "is not YAML"),
        ("harmonica.yaml", "- a", "is not a description of a model"),
        ("harmonica.yaml", "extracter: x", "did you mean 'extractor'?"),
        ("harmonica.yaml", "cfg: 0.5", "cfg must be in [1, ∞), got 0.5"),
        ("harmonica.yaml", "schedule: cosine", "unknown noise schedule 'cosine'"),
        ("harmonica.yaml", "reference: nowhere", "nowhere, the reference of"),
        ("harmonica.yaml", "companion: nowhere", "is not a model: it has no vae/config.json"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_refused(folder, tmp_path, capsys, path, content, says):
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_text(content)
    status, err = run(capsys, "plan", "fora", "--model", folder, "--steps", 3, "-o", tmp_path / "p.safetensors")
    assert status == 2 and says in err and err.count("\n") == 1
    assert not (tmp_path / "p.safetensors").exists() and not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere/mine", "nowhere/mine is not a folder"), ("", "unknown model ''"), ("x" * 5000, "unknown model 'xxx"),
     ("dit-00000000", "unknown model 'dit-00000000'"), ("a\0b", "unknown model")],
)  # fmt: skip
def test_names_that_are_none(folder, name, says):
    with pytest.raises(UserError) as e:
        get_model(name)
    assert says in str(e.value)


def test_models_of_other_packages(monkeypatch, capsys):
    """An entry point is a model, some of them, or a function that gives either; no name is taken over."""
    mine = replace(MODELS["pocket-dit"], name="mine", title="Mine")
    given = {"one": mine, "some": lambda: [replace(mine, name="other")], "none": [1], "taken": MODELS["pocket-dit"],
             "broken": lambda: 1 / 0, "hostile": replace(mine, name="$(touch x)")}  # fmt: skip

    class Point(EntryPoint):
        def load(self):
            return given[self.name]

    points = [Point(name, "theirs", "harmonica.models") for name in given]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "harmonica.models" else [])
    catalog.offered.cache_clear()
    try:
        assert get_model("mine").title == "Mine" and get_model("other").own and not get_model("pocket-dit").own
        said = capsys.readouterr().err
        assert "offers 'pocket-dit', a name that is taken" in said and "ZeroDivisionError" in said
        assert "offers no harmonica.models.Model" in said and len(said.splitlines()) == 4
        assert "offers '$(touch x)': a name has letters" in said
    finally:
        catalog.offered.cache_clear()


@pytest.mark.slow
def test_a_text_to_image_model(folder, tmp_path, capsys):
    """Captions are the user's: here a list of twelve, half of them for training."""
    text = tmp_path / "text"
    shutil.copytree(MODELS["pocket-pixart"].source, text)
    (text / "captions.txt").write_text("\n".join(f"{n} cats" for n in range(12)))
    (text / "harmonica.yaml").write_text("captions: captions.txt\ntext_tokens: 24\ncfg: 4.5\n")
    model = get_model(str(text))
    assert (model.kind, model.captions.images, model.sampler) == ("pixart", 6, "dpmsolver++")
    plan = tmp_path / "p.safetensors"
    assert run(capsys, "plan", "fora", "--model", text, "--steps", 3, "-o", plan)[0] == 0
    assert run(capsys, "sample", plan, "--images", 2, "-o", tmp_path / "s")[0] == 0
    (text / "captions.txt").write_text("\n".join(f"{n} dogs" for n in range(12)))
    assert get_model(str(text)).name != model.name


def test_every_key_of_a_description_is_documented():
    """In docs/own_models.md, as `harmonica.models.own.Description` says."""
    rows = [
        f"| `{f.name}` | {f.meaning}{f' (default: {f.default})' if f.default else ''} |"
        for f in described(own.Description)
    ]
    text = (Path(__file__).parent.parent.parent / "docs" / "own_models.md").read_text("utf-8")
    assert "\n".join(["| key | meaning |", "|---|---|", *rows]) in text


def test_parameters_that_nothing_computes_with_are_refused(folder, tmp_path, capsys):
    weights = load_file(folder / WEIGHTS)
    weights["transformer_blocks.0.norm3.weight"] = weights["proj_out_2.bias"].clone()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    plan = tmp_path / "p.safetensors"
    assert run(capsys, "plan", "fora", "--model", folder, "--steps", 3, "-o", plan)[0] == 0
    status, err = run(capsys, "sample", plan, "--images", 1, "-o", tmp_path / "images")
    assert status == 2 and "norm3.weight, which no backbone here computes with" in err
