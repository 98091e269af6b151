"""A pipeline of the hub as a model of one's own, against a stand-in of the hub's HTTP interface."""

from pathlib import Path

import pytest
import yaml
from fake_hub import TOKEN, Hub
from huggingface_hub import constants

from harmonica.cli import main
from harmonica.models import MODELS, own
from harmonica.plan import Plan

POCKET = Path(MODELS["pocket-dit"].source)
NAME = "ada/small-dit"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    own._known.clear()
    own._named.clear()
    yield hub
    hub.stop()


def files() -> dict[str, bytes]:
    parts = [p for part in ("transformer", "vae", "scheduler") for p in (POCKET / part).iterdir()]
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in parts} | {"README.md": b"a model"}


def test_it_is_fetched_and_named_by_its_repository(hub, capsys, tmp_path):
    hub.add(NAME, files())
    plan = ["plan", "fora", "--model", NAME, "--steps", "4", "-o", "p.safetensors"]
    assert main(plan) == 2
    assert f"run `harmonica fetch {NAME}`" in capsys.readouterr().err
    assert main(["fetch", NAME, "--done", "done.json"]) == 0
    folder = tmp_path / "weights" / "hub" / "ada--small-dit"
    assert sorted(p.name for p in folder.iterdir()) == ["scheduler", "transformer", "vae"]
    assert main(plan) == 0
    assert Plan.load("p.safetensors").protocol.model == own.of_folder(folder).name
    asked = len(hub.requests)
    assert main(["fetch", NAME]) == 0 and len(hub.requests) == asked  # it is there


@pytest.mark.parametrize("where", ["the hub", "a folder"])
def test_the_card_of_a_plan_for_it(where, hub, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    model = NAME
    if where == "the hub":
        hub.add(NAME, files())
        assert main(["fetch", NAME]) == 0
    else:
        model = "./mine"
        for name, data in files().items():
            (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine" / name).write_bytes(data)
    assert main(["plan", "fora", "--model", model, "--steps", "4", "-o", "p.safetensors"]) == 0
    assert main(["push", "p.safetensors", "ada/plans"]) == 0
    card = hub.repositories["ada/plans"].files()["README.md"].decode()
    if where == "the hub":
        assert f'harmonica.load_pipeline("{NAME}")' in card and yaml.safe_load(card.split("---\n")[1])[
            "base_model"
        ] == [NAME]
    else:
        assert "pipe = ...  # diffusers' pipeline of mine, 32 pixels" in card and str(tmp_path) not in card
    assert main(["show", "p.safetensors"]) == 0 and "fora for " in capsys.readouterr().out


def test_weights_that_come_damaged_are_fetched_again(hub, capsys, tmp_path):
    hub.add(NAME, files())
    hub.lfs = (".safetensors",)
    name = "transformer/diffusion_pytorch_model.safetensors"
    right = files()[name]
    hub.damaged[name] = right[:-1] + bytes([right[-1] ^ 1])
    assert main(["fetch", NAME]) == 2
    assert "its sha256 is not the hub's; it was deleted" in capsys.readouterr().err
    folder = tmp_path / "weights" / "hub" / "ada--small-dit"
    assert not folder.exists()
    hub.damaged.clear()
    assert main(["fetch", NAME]) == 0
    assert (folder / name).read_bytes() == right


@pytest.mark.parametrize("content, says", [(None, "could not be downloaded"), ({"README.md": b""}, "no folder trans")])
def test_what_is_none(hub, content, says, capsys, tmp_path):
    if content:
        hub.add(NAME, content)
    assert main(["fetch", NAME]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "weights" / "hub" / "ada--small-dit").exists()
