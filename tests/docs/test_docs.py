"""The pages say what is there: code runs, links lead somewhere, and the site is built from code and committed runs."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from browser import opened
from forked import forks

from harmonica.methods import get_method, known_methods
from harmonica.utils.settings import described

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {  # blocks that other tests run, by what is in them
    "enable_cache(pipe": "tests/runtimes/test_diffusers_pipelines.py",
    "class LeastChange": "tests/training/test_recording.py",
    "class Line": "tests/methods/test_frontier.py",
}


def load(path: Path):
    spec = importlib.util.spec_from_file_location("site_hooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    return load(ROOT / "docs" / "hooks.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, which is built without a warning, or not at all."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0 and "WARNING -" not in done.stderr, done.stdout + done.stderr
    return out


@pytest.mark.parametrize("page, has", [("index.html", "HarmoniCa"), ("forecast/index.html", "Step search")])
def test_the_site_opens(site, page, has, tmp_path):
    dom = opened(site / page, tmp_path / "page.png")
    assert has in dom and "md-content" in dom


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text("utf-8")))


# code


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """Each by itself, in an empty folder; what a block says it prints is what it prints."""
    monkeypatch.chdir(tmp_path)
    for i, code in enumerate(blocks(page, "python")):
        by = [test for mark, test in ELSEWHERE.items() if mark in code]
        if by:
            assert (ROOT / by[0]).is_file() and page.name in (ROOT / by[0]).read_text("utf-8")
            continue
        module = types.ModuleType(f"block{i}")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up annotations
        exec(compile(code, f"{page.name}, block {i}", "exec"), vars(module))
        said = [line.split("  # ")[1] for line in code.splitlines() if line.startswith("print(") and "  # " in line]
        assert capsys.readouterr().out.splitlines() == said


def test_every_command_of_the_pages_exists():
    """`harmonica COMMAND` and the options after it, wherever a page has it."""
    from harmonica.cli import build_parser

    options = {
        name: p._option_string_actions for name, p in build_parser()._subparsers._group_actions[0].choices.items()
    }
    found = 0
    for page in PAGES:
        shell = "\n".join(re.findall(r"^```(?:shell)?\n(.*?)^```", page.read_text("utf-8"), re.S | re.M))
        inline = re.findall(r"`(?:\.venv/bin/)?(harmonica [^`]*)`", page.read_text("utf-8"))
        for line in [*shell.splitlines(), *inline]:
            words = line.split("#")[0].split()
            if words[:1] != ["harmonica"] or words[1].isupper() or words[1].startswith("-"):
                continue
            assert words[1] in options, line
            unknown = {w.split("=")[0] for w in words if w.startswith("--")} - set(options[words[1]]) - {"--help"}
            assert not unknown, line
            found += 1
    assert found > 30


@pytest.mark.slow
def test_the_tutorial(tmp_path):
    """Its commands as printed, in a copy of the project with fewer images."""
    page = ROOT / "docs" / "tutorial.md"
    ignore = shutil.ignore_patterns(".*", "reference", "results", "__pycache__", "*.egg-info", "site", "weights")
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=ignore)
    reference = "results/reference/pocket"
    (project / reference).mkdir(parents=True)
    for end in ("csv", "provenance.json"):
        shutil.copy(ROOT / reference / f"frontier.{end}", project / reference)
    (code,), (text,) = blocks(page, "python"), blocks(page, "yaml")
    (project / "baselines" / "two_intervals.py").write_text(code)
    mine = yaml.safe_load(text)
    mine["images"] = 12
    mine["tables"]["table1"] |= {
        "converged": {"images": 8, "steps": 12}, "latency": {"batch": 2, "rounds": 1, "max_rounds": 1},
    }  # fmt: skip
    (project / "mine.yaml").write_text(yaml.safe_dump(mine))
    env = os.environ | {"PYTHONPATH": str(project), "PATH": f"{forks().commands}:{os.environ['PATH']}"}
    out = {}
    for block in blocks(page, "shell"):
        for command in block.splitlines():
            if command in ("make setup", ". .venv/bin/activate"):
                continue
            small = command.replace("--images 64", "--images 4")
            done = subprocess.run(small, shell=True, cwd=project, env=env, capture_output=True, text=True)
            out[command] = done.stdout + done.stderr
            assert done.returncode == 0, out[command]
    shown = [x for command, x in out.items() if command.startswith("harmonica show")]
    prose = re.sub(r"\s+", " ", page.read_text("utf-8"))
    assert (
        "CUR 60.00 %" in shown[0]
        and "theoretical speed-up 2.44x" in shown[0]
        and "here 60 %" in prose
        and "2.44" in prose
    )
    assert "r.r.r.r." in shown[1] and "1 passed" in next(x for c, x in out.items() if "pytest" in c)
    table = pd.read_csv(project / "results" / "table1.csv")
    printed = re.findall(r"^\| ([^|]+) \| \d+ \|", page.read_text("utf-8"), re.M)
    assert list(table.method) == printed and (project / "grid.png").is_file()
    for figure in re.findall(r"`(results/pocket/figures/\S+\.png)`", page.read_text("utf-8")):
        assert (project / figure).is_file()
    assert all("harmonica plan " in x for c, x in out.items() if "recommend" in c)
    # what a row costs and saves does not depend on the number of images
    found = {tuple(f"{x:.2f}" if x else "–" for x in (r.CUR, r.theoretical_speedup)) for r in table.itertuples()}
    assert found == set(re.findall(r"\| ([\d.–]+) \| ([\d.]+) \| [\d.]+ \|$", page.read_text("utf-8"), re.M))


# links


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_of_the_repository(page):
    for _, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), target
            heads = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.M) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]


def test_links_on_the_site(hooks):
    """To its own pages and pictures; to files that are not, by the repository's address, or the file's name."""
    figure = "../results/reference/pocket/figures/sweep.png"
    source = f"[a](cluster.md#slurm) ![b]({figure}) [`x`](../harmonica/cli/plan.py) [t](#u)"
    assert hooks.linked(source, "docs/forecast.md", None) == (
        "[a](cluster.md#slurm) ![b](figures/sweep.png) `x` (`harmonica/cli/plan.py`) [t](#u)"
    )
    assert "[`x`](https://host/we/it/blob/main/harmonica/cli/plan.py)" in hooks.linked(
        source, "docs/forecast.md", "https://host/we/it/"
    )
    assert hooks.linked("[tour](docs/tour.ipynb)", "README.md", None) == "[tour](tour.md)"
    nested = "[![f](results/reference/pocket/figures/sweep.png)](results/reference/pocket/sweep.md)"
    assert hooks.linked(nested, "README.md", None) == "[![f](figures/sweep.png)](results/sweep.md)"
    fenced = "```\n[a](docs/cluster.md)\n```\n[a](docs/cluster.md) [LICENSE](LICENSE)"
    assert hooks.linked(fenced, "README.md", None) == "```\n[a](docs/cluster.md)\n```\n[a](cluster.md) `LICENSE`"
    assert hooks.linked("[r](../../../README.md)", "results/reference/pocket/table1.md", None) == "[r](../index.md)"


# the site


def test_pages_of_methods(site):
    """Title, what it is, every setting, and its rows as the committed runs have them."""
    frontier = pd.read_csv(ROOT / "results/reference/pocket/frontier.csv")
    for name in known_methods():
        cls, page = get_method(name), text_of(site / "methods" / name / "index.html")
        assert cls.title in page and sys.modules[cls.__module__].__doc__.split()[0] in page
        assert all(f.name in page for f in described(cls))
    page = text_of(site / "methods" / "easycache" / "index.html")
    row = frontier[(frontier.method == "EasyCache") & (frontier.case == "dit-3x")].iloc[0]
    assert (
        f"{row.PSNR:.2f} ±" in page and f"{row.theoretical_speedup:.2f}" in page and f"{row.FID_uncached:.4f} (" in page
    )
    assert "No committed run" in text_of(site / "methods" / "transfer" / "index.html")


def test_rows_of_a_table_in_a_docstring(hooks):
    table = "|   | a | b |\n|---|---|---|\n| x | one | two |\n|   | more |  |\n| y | three |\n|  | four |"
    assert hooks.joined_rows(table).splitlines()[2:] == ["| x | one more | two |", "| y | three four |"]


def test_a_row_is_on_the_page_of_the_method_that_made_it(hooks):
    """As the provenance of the runs has it; the label of a row is all that older runs have."""
    from harmonica.sharing import measured

    for table in ("frontier", "table1"):
        own = measured.read(ROOT / "results/reference/pocket" / f"{table}.csv")
        for name in known_methods():
            assert list(hooks.rows_of(name, table).method) == list(own[own.name == name].method), (name, table)


def test_every_committed_figure_is_shown_with_a_caption(site, hooks):
    page = (site / "gallery" / "index.html").read_text("utf-8")
    figures = sorted((ROOT / "results/reference/pocket/figures").glob("*.png"))
    assert figures and all(f"figures/{f.name}" in page and (site / "figures" / f.name).is_file() for f in figures)
    assert all(part in text_of(site / "gallery" / "index.html") for f in figures for part in hooks.caption_of(f.stem))
    assert (
        hooks.caption_of("drift-20")[0] == "Drift, 20 steps" and hooks.caption_of("table1-real")[0] == "Table 1: time"
    )


def test_public_names_are_documented(site):
    import harmonica

    page = (site / "api" / "harmonica" / "index.html").read_text("utf-8")
    assert all(f'id="harmonica.{name}"' in page or f"harmonica.{name}<" in page for name in harmonica.__all__)
    assert "Raises UserError if the shapes differ" in text_of(site / "api" / "harmonica.evaluation" / "index.html")


def test_the_notebook_is_run(site):
    """On the site with what it prints; in the repository without."""
    page = text_of(site / "tour" / "index.html")
    psnr = {
        name: float(x) for name, x in re.findall(r"(FORA|TaylorSeer|Fewer steps) +[\d.]+x +[\d.]+x +([\d.]+) dB", page)
    }
    assert psnr["TaylorSeer"] > psnr["Fewer steps"] and 20 < psnr["FORA"] < 40  # as docs/forecast.md has it
    assert len(list((site / "tour").glob("*.png"))) == 4
    path = ROOT / "docs" / "tour.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 40_000 and not any(
        c.get("outputs") or c.get("execution_count") for c in notebook.cells
    )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
