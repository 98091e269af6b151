"""`harmonica push` and `harmonica pull`, against a stand-in of the hub's HTTP interface."""

import errno
import os
import pickle
import socket

import numpy as np
import pytest
import yaml
from conftest import protocol
from fake_hub import TOKEN, Hub
from huggingface_hub import constants
from safetensors.numpy import save

from harmonica.cli import main
from harmonica.models import MODELS
from harmonica.plan import REUSE, Origin, Plan, Router, all_compute
from harmonica.sharing import shipped_plans

BRANCHES = len(MODELS["pocket-dit"].layout.branches)
REPOSITORY = "ada/plans"
EVERY_OTHER = "every-other.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, an account on it, and an empty working directory."""
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield hub
    hub.stop()


def every_other(**origin) -> Plan:
    actions = np.zeros((4, BRANCHES), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, protocol(4), Origin("by hand", **origin))


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / EVERY_OTHER
    every_other(settings={"every": 2}, seed=7).save(path)
    return path


def said(capsys, *args) -> tuple[int, str]:
    """Exit status, and the sentence of an error."""
    status = main([str(a) for a in args])
    err = capsys.readouterr().err.strip()
    assert status == 0 or (len(err.splitlines()) == 1 and err.startswith("harmonica: ")), err
    return status, err


def here() -> list[str]:
    return sorted(os.listdir())


@pytest.mark.parametrize("lfs", [(), (".safetensors",)])
def test_a_plan_comes_back_with_the_same_bytes(hub, plan, capsys, monkeypatch, lfs):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # LFS objects by plain HTTP
    hub.lfs = lfs
    assert main(["push", str(plan), REPOSITORY, "--message", "The first"]) == 0
    out = capsys.readouterr().out
    assert f"{hub.endpoint}/{REPOSITORY}" in out and "quality not measured" in out
    repository = hub.repositories[REPOSITORY]
    assert repository.messages[1:] == ["The first"] and not repository.private
    assert set(repository.files()) == {".gitattributes", EVERY_OTHER, "README.md"} and (len(hub.objects) == len(lfs))
    assert main(["pull", REPOSITORY]) == 0
    assert "CUR 50.00 %" in capsys.readouterr().out
    with open(EVERY_OTHER, "rb") as f:
        assert f.read() == plan.read_bytes()
    assert here() == [EVERY_OTHER]


def test_a_router_comes_back_beside_its_plan(hub, plan, tmp_path):
    router = Router(np.zeros((4, BRANCHES), np.float32), protocol(4), Origin("by hand", notes={"threshold": 0.5}))
    path = tmp_path / "every-other.router.safetensors"
    router.save(path)
    assert main(["push", str(plan), str(path), REPOSITORY, "--private"]) == 0
    assert hub.repositories[REPOSITORY].private and len(hub.repositories[REPOSITORY].messages) == 2
    os.mkdir("folder")
    assert main(["pull", REPOSITORY, path.name, "-o", "folder"]) == 0
    assert main(["pull", REPOSITORY, "-o", "mine.safetensors"]) == 0  # the plan: routers are named
    with open(f"folder/{path.name}", "rb") as f, open("mine.safetensors", "rb") as g:
        assert f.read() == path.read_bytes() and g.read() == plan.read_bytes()


def test_a_branch_and_an_older_commit(hub, plan, tmp_path, capsys):
    assert main(["push", str(plan), REPOSITORY]) == 0
    first = hub.repositories[REPOSITORY].branches["main"]
    all_compute(protocol(4), BRANCHES).save(plan)
    for _ in range(2):  # the branch is new, then there
        assert main(["push", str(plan), REPOSITORY, "--revision", "full"]) == 0
    for revision, cur in (("main", 50), ("full", 0), (first, 50)):
        assert main(["pull", REPOSITORY, "-o", f"{cur}.safetensors", "--revision", revision]) == 0
        assert Plan.load(f"{cur}.safetensors").cur == cur
    status, err = said(capsys, "pull", REPOSITORY, "--revision", "none")
    assert status == 2 and "it has no such revision" in err


def test_a_card_keeps_what_others_wrote(hub, plan, tmp_path):
    """Sections of other plans, and a README by hand; a plan's own section is replaced."""
    hub.add(REPOSITORY, {"README.md": b"---\ntags: [mine]\n---\n# My own\n"})
    assert main(["push", str(plan), REPOSITORY]) == 0
    other = tmp_path / "full.safetensors"
    all_compute(protocol(4), BRANCHES).save(other)
    assert main(["push", str(other), REPOSITORY]) == 0
    every_other(seed=8).save(plan)
    assert main(["push", str(plan), REPOSITORY]) == 0
    card = hub.repositories[REPOSITORY].files()["README.md"].decode()
    assert card.startswith("---\ntags: [mine]\n---\n# My own\n")
    assert card.count(f"## {EVERY_OTHER}") == card.count("## full.safetensors") == 1
    assert "| seed | 8 |" in card and "| seed | 7 |" not in card


def test_a_commit_in_between_is_said(hub, plan, capsys, monkeypatch):
    from harmonica.sharing import card

    hub.add(REPOSITORY, {})

    def meanwhile(*_):
        hub.repositories[REPOSITORY].commit({"x": b""})
        return "---\ntags: []\n---\n"

    monkeypatch.setattr(card, "readme", meanwhile)
    status, err = said(capsys, "push", plan, REPOSITORY)
    assert status == 2 and "it changed meanwhile (412)" in err


def test_a_card_that_the_hub_cannot_read(hub, plan, capsys):
    hub.add(REPOSITORY, {"README.md": b"---\ntags: [\n---\n"})
    status, err = said(capsys, "push", plan, REPOSITORY)
    assert status == 2 and "the front matter of its README.md is not valid" in err
    hub.add(REPOSITORY, {"README.md": b"\xff"})
    status, err = said(capsys, "push", plan, REPOSITORY)
    assert status == 2 and "is not text in UTF-8" in err


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def damaged(kind: str, plan: bytes) -> bytes:
    if kind == "truncated":
        return plan[:-7]
    if kind == "changed":
        return plan[:-1] + bytes([plan[-1] ^ 1])
    if kind == "pickle":
        return pickle.dumps(Evil())
    if kind == "other tensors":
        return save({"weight": np.zeros((2, 2), np.float32)})
    if kind == "bfloat16":  # which numpy does not have
        header = b'{"actions":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
        return len(header).to_bytes(8, "little") + header + b"\0\0"
    if kind == "a huge header":
        return (1 << 62).to_bytes(8, "little") + plan[8:]
    return b"" if kind == "empty" else b"<html>no</html>"


@pytest.mark.parametrize(
    "kind", ["truncated", "changed", "pickle", "other tensors", "bfloat16", "a huge header", "empty", "a page"]
)
def test_what_is_no_plan_is_refused(hub, plan, capsys, kind):
    hub.add(REPOSITORY, {EVERY_OTHER: damaged(kind, plan.read_bytes())})
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and f"{EVERY_OTHER} of {REPOSITORY} was not saved: " in err and "/tmp" not in err
    assert here() == []
    with open(EVERY_OTHER, "wb") as f:
        f.write(b"mine")
    assert said(capsys, "pull", REPOSITORY, "-o", EVERY_OTHER)[0] == 2
    with open(EVERY_OTHER, "rb") as f:
        assert f.read() == b"mine"


def test_a_plan_of_another_model_is_refused(hub, plan, tmp_path, capsys):
    all_compute(protocol(4), BRANCHES + 2).save(plan)
    hub.add(REPOSITORY, {EVERY_OTHER: plan.read_bytes()})
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and f"the plan has {BRANCHES + 2} branches, but pocket DiT has {BRANCHES}" in err and not here()


@pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors", "/x.safetensors", ".x.safetensors",
                                  "a\\..\\x.safetensors", "x.pt", "README.md"])  # fmt: skip
def test_names_that_lead_elsewhere(hub, plan, tmp_path, capsys, name):
    hub.add(REPOSITORY, {name: plan.read_bytes()})
    before = sorted(os.listdir(tmp_path))
    status, err = said(capsys, "pull", REPOSITORY, name)
    assert status == 2 and "is not the name of a plan in a repository" in err
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and "has no plans" in err
    assert here() == [] and sorted(os.listdir(tmp_path)) == before


def test_a_file_too_large_is_not_downloaded(hub, capsys, monkeypatch):
    from harmonica.sharing import hub as module

    monkeypatch.setattr(module, "LARGEST", 999)
    hub.add(REPOSITORY, {EVERY_OTHER: bytes(1000)})
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and "and is no plan" in err and not any("resolve" in r for r in hub.requests)


def test_which_of_several_plans(hub, plan, capsys):
    hub.add(REPOSITORY, {"a.safetensors": plan.read_bytes(), "in/b.safetensors": plan.read_bytes(), "c.bin": b""})
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and "has several plans: name one of a.safetensors, in/b.safetensors" in err
    status, err = said(capsys, "pull", REPOSITORY, "c.safetensors")
    assert status == 2 and "has no c.safetensors; it has a.safetensors, in/b.safetensors" in err
    assert main(["pull", REPOSITORY, "in/b.safetensors"]) == 0 and here() == ["b.safetensors"]


def test_another_file_of_the_default_name_is_kept(hub, plan, capsys):
    hub.add(REPOSITORY, {EVERY_OTHER: plan.read_bytes()})
    all_compute(protocol(4), BRANCHES).save(EVERY_OTHER)
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and "exists and is another file: pass -o" in err and Plan.load(EVERY_OTHER).cur == 0
    for _ in range(2):  # over it, then the same file again
        assert main(["pull", REPOSITORY, "-o", EVERY_OTHER]) == 0
    assert main(["pull", REPOSITORY]) == 0 and Plan.load(EVERY_OTHER).cur == 50


def test_who_you_are(hub, plan, capsys, monkeypatch):
    """Another's namespace, a wrong token, none; a private repository without one."""
    status, err = said(capsys, "push", plan, "bob/plans")
    assert status == 2 and "cannot push to bob/plans: you may not do that there (403)" in err
    hub.add("ada/secret", {EVERY_OTHER: plan.read_bytes()}, private=True)
    assert main(["pull", "ada/secret"]) == 0
    os.unlink(EVERY_OTHER)
    for token in ("hf_wrong", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        status, err = said(capsys, "push", plan, REPOSITORY)
        assert status == 2 and f"cannot push to {REPOSITORY}: " in err and "log in with `hf auth login`" in err
        status, err = said(capsys, "pull", "ada/secret")
        assert status == 2 and "it does not exist, or you may not see it" in err and "HF_TOKEN" in err
    assert REPOSITORY not in hub.repositories and here() == []


def test_a_public_repository_is_not_taken_for_private(hub, plan, capsys):
    hub.add(REPOSITORY, {})
    status, err = said(capsys, "push", plan, REPOSITORY, "--private")
    assert status == 2 and "is public: nothing was pushed" in err and hub.repositories[REPOSITORY].files() == {}


@pytest.mark.parametrize("status", [404, 418])
@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_hub_that_refuses(hub, plan, capsys, command, status):
    hub.status = status
    args = [plan, REPOSITORY] if command == "push" else [REPOSITORY]
    exit_status, err = said(capsys, command, *args)
    assert exit_status == 2 and f"the hub answered {status}" in err and here() == []


def test_a_repository_that_is_not_there(hub, capsys):
    status, err = said(capsys, "pull", "ada/none")
    assert status == 2 and "cannot pull from ada/none: it does not exist" in err
    status, err = said(capsys, "pull", "not a name")
    assert status == 2 and "that is not the name of a repository, OWNER/NAME" in err


@pytest.mark.parametrize("command", ["push", "pull"])
def test_no_server(hub, plan, capsys, monkeypatch, command):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{s.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    args = [plan, REPOSITORY] if command == "push" else [REPOSITORY]
    status, err = said(capsys, command, *args)
    assert status == 2 and f"the hub at {endpoint} cannot be reached, or is none (ConnectError)" in err and not here()


def test_a_full_disk(hub, plan, capsys, monkeypatch):
    hub.add(REPOSITORY, {EVERY_OTHER: plan.read_bytes()})

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, err = said(capsys, "pull", REPOSITORY)
    assert status == 2 and "No space left on device" in err and here() == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["none.safetensors", REPOSITORY], "none.safetensors does not exist"),
        (["{plan}", "b.safetensors"], "the last argument is the repository, OWNER/NAME, got the file b.safetensors"),
        (["{plan}", REPOSITORY, "--quality", "none.csv"], "none.csv does not exist"),
        (["{plan}", "{twin}", REPOSITORY], f"two files are named {EVERY_OTHER}"),
        (["{bin}", REPOSITORY], "its name must end in .safetensors"),
    ],
)
def test_what_cannot_be_pushed(hub, plan, tmp_path, capsys, args, says):
    (tmp_path / "twin").mkdir()
    paths = {"plan": plan, "twin": tmp_path / "twin" / EVERY_OTHER, "bin": tmp_path / "plan.bin"}
    for path in (paths["twin"], paths["bin"]):
        path.write_bytes(plan.read_bytes())
    status, err = said(capsys, "push", *(a.format(**paths) for a in args))
    assert status == 2 and says in err and not hub.requests


def test_a_plan_that_names_a_folder_of_its_machine_stays_here(hub, plan, capsys):
    every_other(notes={"from": ["see /home/someone/plans/x.safetensors"]}).save(plan)
    status, err = said(capsys, "push", plan, REPOSITORY)
    assert status == 2 and "is not published: its origin has the path" in err and not hub.requests


def test_a_shipped_plan_is_pushed_with_what_was_measured(hub, capsys):
    path = shipped_plans.FOLDER / "pocket-dit-2x.safetensors"
    assert main(["push", str(path), REPOSITORY]) == 0
    assert "quality from table frontier" in capsys.readouterr().out
    files = hub.repositories[REPOSITORY].files()
    assert files[path.name] == path.read_bytes()
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert front["library_name"] == "harmonica-bench" and {"harmonica", "feature-caching"} <= set(front["tags"])
