"""A pipeline of the hub as a model of one's own, against a stand-in of the hub's HTTP interface."""

from pathlib import Path

import pytest
from fake_hub import Hub

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
