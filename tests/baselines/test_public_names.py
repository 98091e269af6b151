"""Baselines and tables use harmonica's public names; planning loads no torch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = [*(ROOT / "baselines").glob("*.py"), *(ROOT / "paper_tables").rglob("*.py")]


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything a file imports from harmonica, also inside functions."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    return [(n.module, a.name) for n in nodes if n.module and n.module.split(".")[0] == "harmonica" for a in n.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_names(path):
    for module, name in imported(path):
        assert not any(part.startswith("_") for part in (*module.split("."), name)), f"{module}.{name} is private"
        package = importlib.import_module(module)
        if module.count(".") == 1 and hasattr(package, "__all__"):
            assert name in package.__all__ or Path(package.__file__).with_name(f"{name}.py").is_file()


def test_planning_loads_no_torch():
    """The workflow lists every row of every table at each start."""
    code = (
        "import sys, harmonica.experiments, harmonica.evaluation.metrics\n"
        "from harmonica.methods import get_method, known_methods\n"
        "[get_method(name) for name in known_methods()]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
