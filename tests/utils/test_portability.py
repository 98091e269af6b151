"""Other systems, locales and names of folders."""

import ast
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harmonica.checks import smoke
from harmonica.utils import memory, provenance
from harmonica.utils.files import ROOT

CODE = [p for folder in ("harmonica", "baselines", "paper_tables") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_cores_where_the_system_does_not_say(monkeypatch):
    """macOS has no sched_getaffinity."""
    assert provenance.usable_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert provenance.usable_cores() == os.cpu_count()
    assert provenance.device().endswith(f", {os.cpu_count()} cores")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert provenance.usable_cores() == 1


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_a_c_library_that_is_not_glibc(platform, monkeypatch):
    """musl has no mallopt; elsewhere no library is opened."""
    opened = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: opened.append(name) or object())
    memory.keep_freed_memory()
    assert memory.Peak().megabytes() >= 0
    assert opened == [None] * 2 * (platform == "linux")


def test_peak_memory_without_proc(monkeypatch):
    monkeypatch.setattr(memory, "Path", lambda name: Path("nowhere") / name.lstrip("/"))
    assert memory.Peak().megabytes() == 0


def test_the_systems_peak_is_in_bytes_on_macos(monkeypatch):
    on_linux = smoke.peak_bytes()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert on_linux / 1024 <= smoke.peak_bytes() < on_linux / 100


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_text_has_an_encoding(path):
    """None is left to the locale."""
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        named = {k.arg: k.value for k in call.keywords}
        if name == "read_text":
            assert call.args or "encoding" in named, call.lineno
        elif name == "write_text":
            assert len(call.args) > 1 or "encoding" in named, call.lineno
        elif isinstance(call.func, ast.Name) and name == "open":
            mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
            assert "b" in mode or "encoding" in named, call.lineno
        assert "text" not in named or "encoding" in named or name not in ("run", "check_output", "Popen"), call.lineno


def test_a_locale_without_greek_letters(tmp_path):
    """Commands print them, and files with any name and captions are written and read."""
    folder = tmp_path / "ein Ördner, 図"
    folder.mkdir()
    annotations = [{"image_id": 0, "id": 0, "caption": "ein rotes Herz ❤"}]
    (folder / "coco.json").write_text(json.dumps({"annotations": annotations}, ensure_ascii=False), "utf-8")
    plan = str(folder / "ö plan.safetensors")
    commands = [
        ["methods", "harmonica"],
        ["plan", "fora", "--steps", "4", "-o", plan],
        ["show", plan],
        ["captions", str(folder / "coco.json"), "-o", str(folder / "Listé.txt")],
        ["plan", "harmonica", "--set", "beta=-1", "-o", plan],
    ]
    code = "import sys; from harmonica.cli import main; print([main(c.split(chr(9))) for c in sys.argv[1:]])"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map("\t".join, commands)],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "τ, compute where r > τ" in done.stdout and "[0, 0, 0, 0, 2]" in done.stdout
    assert "beta must be in (0, ∞), got -1" in done.stderr
    assert (folder / "Listé.txt").read_text("utf-8") == "ein rotes Herz ❤\n"
