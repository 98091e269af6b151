"""The Dockerfile: its lint, and its steps after apt in a clean folder, since a daemon to build it is rarely there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harmonica.utils import ROOT

FILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of every instruction."""
    text = re.sub(r"^#.*\n", "", FILE.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def ignored(folder: str, names: list[str]) -> set[str]:
    """What .dockerignore leaves out, and the history."""
    if Path(folder) == ROOT / "results":
        return set(names) - {"reference"}
    patterns = [p.removeprefix("**/") for p in (ROOT / ".dockerignore").read_text("utf-8").split() if p[0] != "!"]
    return set(shutil.ignore_patterns(*patterns, ".git")(folder, names))


def test_lint():
    if not shutil.which("hadolint"):
        pytest.skip("hadolint is not installed: the Dockerfile is not linted")
    done = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_build_steps(tmp_path):
    """As printed, but for apt and uv itself; packages come from uv's cache, by links, and nothing from the network."""
    folder = tmp_path / "a project"
    shutil.copytree(ROOT, folder, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed: the steps of the Dockerfile are not run")
    shutil.copy(uv, folder / ".venv" / "bin" / "uv")
    env = {k: os.environ[k] for k in ("PATH", "HOME", "UV_CACHE_DIR", "LANG") if k in os.environ}
    env |= {"UV_OFFLINE": "1", "UV_LINK_MODE": "symlink"}
    ran, command = [], []
    for keyword, rest in instructions():
        if keyword == "ENV" and not rest.startswith("UV_NO_CACHE"):
            name, value = rest.split("=", 1)
            value = shlex.split(value)[0].replace("/opt/harmonica", str(folder)).replace("$PATH", env["PATH"])
            env[name] = value
        elif keyword == "RUN" and not rest.startswith("apt-get"):
            done = subprocess.run(["sh", "-c", rest], cwd=folder, env=env, capture_output=True, text=True)
            if "offline" in done.stderr or "network" in done.stderr.lower():
                pytest.skip("uv's cache lacks packages: the steps of the Dockerfile are not run")
            assert done.returncode == 0, done.stdout + done.stderr
            ran.append(rest)
        elif keyword == "CMD":
            command = json.loads(rest)
    assert ran == ["make setup"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "harmonica estimate" in done.stdout, done.stdout + done.stderr
    where = subprocess.run(["python", "-c", "import harmonica; print(harmonica.__file__)"], cwd=tmp_path, env=env,
                           capture_output=True, text=True).stdout  # fmt: skip
    assert Path(where.strip()).parent.parent == folder
