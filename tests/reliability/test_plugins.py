"""Entry points of other packages: one that is broken is named and left out, none takes over a name."""

import os
import subprocess
import sys

import pytest

METHOD = '''"""Mine."""

from dataclasses import dataclass

from harmonica.methods import Method


@dataclass(frozen=True)
class Mine(Method):
    title = "Mine"

    def make(self, task):
        return task.plan(task.actions())
'''
COMMAND = """HELP, EXAMPLE = "Say hello.", "harmonica hello"


def add_arguments(parser):
    pass


def run(args):
    print("hello")
"""


@pytest.fixture
def installed(tmp_path):
    """A function that installs a distribution with entry points, and one that runs `harmonica` beside it."""

    def install(points: str, **modules: str) -> None:
        about = tmp_path / "foreign_caches-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-caches\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(points)
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)

    def harmonica(*args: object) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "harmonica", *map(str, args)]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)

    return install, harmonica


def test_a_method_and_a_command_of_another_package(installed, tmp_path):
    install, harmonica = installed
    install("[harmonica.methods]\nmine = mine_\n[harmonica.commands]\nhello = hello_\n", mine_=METHOD, hello_=COMMAND)
    assert harmonica("hello").stdout == "hello\n"
    done = harmonica("plan", "mine", "--steps", 3, "-o", tmp_path / "p.safetensors")
    assert (
        done.returncode == 0 and done.stdout.startswith("pocket-dit_ddim3_cfg1.3_mine: CUR 0.00 %") and not done.stderr
    )


@pytest.mark.parametrize(
    ("points", "modules", "says"),
    [
        ("[harmonica.methods]\nmine = nowhere.at_all\n", {}, "(nowhere.at_all) cannot be imported (ModuleNotFound"),
        ("[harmonica.methods]\nmine = gone\n", {}, "'mine' of foreign-caches (gone) cannot be imported: there"),
        ("[harmonica.methods]\nfora = mine_\n", {"mine_": METHOD}, "offers 'fora', a name that is taken"),
        ("[harmonica.methods]\nharmonica = mine_\n", {"mine_": METHOD}, "offers 'harmonica', a name that is taken"),
        ("[harmonica.commands]\nplan = hello_\n", {"hello_": COMMAND}, "offers 'plan', a name that is taken"),
        ("[harmonica.commands]\ntable = hello_\n", {"hello_": COMMAND}, "offers 'table', a name that is taken"),
        ("[harmonica.commands]\nhello = hello_\n", {"hello_": "1 / 0"}, "(hello_) cannot be imported (ZeroDivision"),
        ("[harmonica.commands]\nhello = hello_\n", {"hello_": "x = 1"}, "(hello_) is not a command: it needs HELP"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_left_out(installed, tmp_path, points, modules, says):
    install, harmonica = installed
    install(points, **modules)
    done = harmonica("plan", "fora", "--steps", 3, "--set", "interval=3", "-o", tmp_path / "p.safetensors")
    assert done.returncode == 0 and "fora-interval3: CUR" in done.stdout and (tmp_path / "p.safetensors").is_file()
    assert says in done.stderr and "it is left out" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_method_that_cannot_be_imported_is_named_when_it_is_asked_for(installed, tmp_path):
    install, harmonica = installed
    install("[harmonica.methods]\nmine = mine_\n", mine_="import nothing_of_this_name")
    done = harmonica("plan", "mine", "-o", tmp_path / "p.safetensors")
    assert done.returncode == 2 and "the method mine (mine_) cannot be imported: ModuleNotFoundError" in done.stderr
    listed = harmonica("methods")
    assert (
        listed.returncode == 0 and "fora: " in listed.stdout and "mine: the method mine (mine_) cannot" in listed.stdout
    )
