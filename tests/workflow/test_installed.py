"""The project as an installed wheel, outside the checkout: commands, and a folder of `harmonica init`."""

import ast
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from harmonica.cli import main

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "images": 8, "sampling": {"chunk": 8, "batch": 8}, "latency": {"batch": 2, "rounds": 1, "max_rounds": 1},
    "converged": {"steps": 6, "images": 8},
}  # fmt: skip


@pytest.mark.parametrize("there", ["a file", "a folder with a file"])
def test_a_folder_that_is_not_empty_is_refused(capsys, tmp_path, there):
    folder = tmp_path / "bench"
    path = folder if there == "a file" else folder / "x"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert main(["init", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "is not an empty folder" in err and len(err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*") if p != folder] == ([] if there == "a file" else ["x"])


ELSEWHERE = {"emoji"}  # to make the shipped captions again, says their script


def normal(name: str) -> str:
    """The name of a distribution as indices compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def test_what_is_imported_is_declared():
    """With the wheel and what it requires an environment has all that its packages import, in the locked versions."""
    from packaging.requirements import Requirement

    required = {
        re.sub("[-_.]+", "-", r.name).lower(): r for r in map(Requirement, metadata.requires("harmonica-bench"))
    }
    required = {name: r for name, r in required.items() if not r.marker or r.marker.evaluate({"extra": ""})}
    distributions = metadata.packages_distributions()
    for path in (p for package in ("harmonica", "baselines", "paper_tables") for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - ELSEWHERE:
                found = set(map(normal, distributions[top]))
                assert found & (required.keys() | {"harmonica-bench"}), f"{path} imports {top}"
    for name, r in required.items():
        assert r.specifier.contains(metadata.version(name), prereleases=True), r


class Installed:
    """An environment with the wheel, and a folder to work in."""

    def __init__(self, folder: Path):
        self.folder = folder / "a folder"
        self.folder.mkdir()
        self.bin = folder / "environment" / "bin"
        self.packages = Path(next(iter((folder / "environment").glob("lib/python*/site-packages"))))

    def run(self, *args: str, status: int = 0, folder: str = ".") -> str:
        """The output of a command of the environment."""
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HARMONICA_WEIGHTS")}
        env |= {"PATH": f"{self.bin}:{env['PATH']}"}
        command = [str(self.bin / args[0]), *args[1:]]
        done = subprocess.run(command, cwd=self.folder / folder, capture_output=True, encoding="utf-8", env=env)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The dependencies are those of this environment, by a path: nothing is downloaded."""
    pytest.importorskip("setuptools", "77", "no setuptools to build the wheel with")
    folder = tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns(
        ".*", "results", "tests", "__pycache__", "*.egg-info", "weights", "checkpoints", "build"
    )
    shutil.copytree(ROOT, folder / "source", ignore=ignore)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(folder / "source")  # nothing may be read from it
    venv.create(folder / "environment", with_pip=True)
    out = Installed(folder)
    out.run("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    paths = [p for p in site.getsitepackages() if Path(p).is_dir()]
    (out.packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    start = f'#!/bin/sh\nexec {out.bin}/python -m snakemake "$@"\n'
    (out.bin / "snakemake").write_text(start)
    (out.bin / "snakemake").chmod(0o755)
    return out


@pytest.mark.slow
def test_commands_of_a_wheel(installed):
    where = installed.run("python", "-c", "import harmonica; print(harmonica.__file__)").strip()
    assert Path(where).parent.parent == installed.packages
    assert "harmonica init my-bench/" in installed.run("harmonica", "--help")
    assert "theoretical speed-up" in installed.run(
        "harmonica", "plan", "fora", "--steps", "4", "-o", "fora.safetensors"
    )
    installed.run("harmonica", "sample", "fora.safetensors", "--images", "2", "-o", "samples")
    assert list((installed.folder / "samples").glob("fora-*/000000-000001.npz"))
    assert "core-hours" in installed.run("harmonica", "estimate", "results/table6.csv", "--cores", "1")
    assert "run `snakemake results/frontier.csv`" in installed.run("harmonica", "recommend", status=2)


@pytest.mark.slow
def test_a_folder_of_init(installed):
    """As printed in its README."""
    installed.run("harmonica", "init", "my-bench/")
    out = installed.run("snakemake", "-n", folder="my-bench")
    assert "Training the router" in out and "results/mine.csv" in out
    assert "is not an empty folder" in installed.run("harmonica", "init", "my-bench", status=2)


@pytest.mark.slow
@pytest.mark.extended
def test_a_table_of_a_folder_of_init(installed):
    """At a micro size."""
    installed.run("harmonica", "init", "other-bench/")
    path = installed.folder / "other-bench" / "config.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    methods = ["full", {"fora": {"interval": 2}}]
    config["tables"]["mine"] |= SMALL | {"cases": {"3": {"model": "pocket-dit", "steps": 3}}, "methods": methods}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    installed.run("snakemake", "results/mine.csv", folder="other-bench")
    table = (path.parent / "results" / "mine.md").read_text("utf-8")
    assert "mine, laid out as table 1" in table and "FORA" in table
