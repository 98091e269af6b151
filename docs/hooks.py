"""What the site has besides the pages in docs/: one page per method, the gallery and the API reference, made when it is
built from the code and the committed runs, and pages that are elsewhere in the repository.

Links of all pages are those of the repository, where they work on their own. On the site, links to pages and figures it
has become links to them; of others the name is left, or a link below `repo_url` if mkdocs.yml has one.
"""

import base64
import inspect
import os
import pkgutil
import posixpath
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import nbformat
import pandas as pd
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient

from harmonica.cli import commands
from harmonica.cli.methods import settings_of
from harmonica.methods import Method, get_method, known_methods
from harmonica.methods.registry import source_file
from paper_tables.layout import COLUMNS, formatted, rows_of_table
from paper_tables.tables import get_table, known_tables

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "results/reference/pocket"
TABLES = ("frontier", "table1", "table3")  # whose rows are on the pages of methods
SHOWN = ("case", "method", "steps", "CUR", "theoretical_speedup", "speedup", "FID_uncached", "PSNR", "training_s")
PACKAGES = ("harmonica", "harmonica.plan", "harmonica.methods", "harmonica.execution", "harmonica.samplers")
# packages whose modules are their interface
MODULES = ("harmonica.runtimes", "harmonica.evaluation", "harmonica.models", "harmonica.backbones",
           "harmonica.compression", "harmonica.training", "harmonica.sharing")  # fmt: skip
EARLIER = " This run is of an earlier version of the suite, without intervals."
MARK = "(made at build time)"  # entries of the navigation in mkdocs.yml that are replaced

# Of figures, by the end of their names: heading and caption, {} is the title of their table
FIGURES = {
    "speedup": (
        "{}: MACs",
        "Quality against theoretical speed-up. Bars are 95 % intervals, small marks training seeds.",
    ),
    "real": ("{}: time", "Quality against measured speed-up."),
    "router": ("{}: routers", "Logits of the learned methods, steps × branches, with a dot where the plan reuses."),
    "samples": (
        "{}: images",
        "Images of equal seeds under every method, and how they differ from the uncached ones.",
    ),
}
OTHER_FIGURES = {
    "sweep": (
        "Sweep of the CUR",
        "IS and FID against measured speed-up, Learning-to-Cache and HarmoniCa; dotted: the paper's points (DiT-XL/2).",
    ),
    "memory": ("Memory", "Peak memory of the caches, for one image."),
    "lambda": ("λ", "The weight that the image-error proxy gives each step of HarmoniCa's training."),
    "drift": (
        "Drift, {} steps",
        "Mean squared error of the latents to those of the uncached model, along a trajectory.",
    ),
}


def elsewhere() -> dict[str, str]:
    """Files of the repository outside docs/ that are pages of the site -> their pages."""
    runs = {f"{REFERENCE}/{p.name}": f"results/{p.name}" for p in sorted((ROOT / REFERENCE).glob("*.md"))}
    models = {
        str(p.relative_to(ROOT)): f"models/{p.parent.name}.md"
        for p in sorted(ROOT.glob("harmonica/pocket/*/README.md"))
    }
    return {
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "workflow/config/README.md": "configuration.md",
    } | runs | models  # fmt: skip


def pictures() -> dict[str, str]:
    """Pictures outside docs/ -> where they are on the site."""
    found = [*(ROOT / REFERENCE / "figures").glob("*.png"), *ROOT.glob("harmonica/pocket/*/*.png")]
    return {str(p.relative_to(ROOT)): f"figures/{p.name}" for p in sorted(found)}


# what mkdocs calls


_serving = False


def on_startup(command: str, dirty: bool) -> None:
    """`mkdocs serve` shows the notebook without outputs: it would run it at every change."""
    global _serving
    _serving = command == "serve"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation has entries for pages that are made."""
    made = {
        "Methods": [{"All methods": "methods/index.md"}]
        + [{get_method(name).title: f"methods/{name}.md"} for name in sorted(known_methods())],
        "Reference runs": [{title_of(p.stem): f"results/{p.name}"} for p in sorted((ROOT / REFERENCE).glob("*.md"))],
        "Python": [{p: f"api/{p}.md"} for p in (*PACKAGES, *MODULES)],
        "Models": [{title: page} for page, title in _models()],
    }
    config.nav = _filled(config.nav or [], made)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {page: (ROOT / path).read_text("utf-8") for path, page in elsewhere().items()}
    pages = {page: re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S) for page, text in pages.items()}
    pages["methods/index.md"] = methods_page()
    pages |= {f"methods/{name}.md": method_page(name) for name in known_methods()}
    pages |= {f"api/{name}.md": api_page(name) for name in (*PACKAGES, *MODULES)}
    pages |= {"gallery.md": gallery(), "commands.md": commands_page()}
    for page, text in (pages | tour(config, run=not _serving)).items():
        files.append(File.generated(config, page, content=text))
    for path, place in pictures().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    path = {v: k for k, v in elsewhere().items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    made = page.file.generated_by and path.startswith("docs/")  # has links of the site already
    text = markdown if made else linked(markdown, path, config.repo_url)
    return text.replace(" ±", "\u00a0±")


# links

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def linked(markdown: str, path: str, repo_url: str | None) -> str:
    """A page of the repository at `path` with the links of the site."""
    places = elsewhere() | pictures() | {"docs/tour.ipynb": "tour.md"}
    here = posixpath.dirname(places.get(path, path.removeprefix("docs/")))

    def change(found: re.Match) -> str:
        picture, text, target = found.groups()
        target, _, anchor = target.partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        place = places.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if place:
            text = linked_pictures(text)
            return f"{picture}[{text}]({posixpath.relpath(place, here or '.')}{'#' * bool(anchor)}{anchor})"
        if repo_url:
            return f"{picture}[{text}]({repo_url.rstrip('/')}/blob/main/{file})"
        return f"`{file}`" if text.strip("`") in (file, target) else f"{text} (`{file}`)"

    def linked_pictures(text: str) -> str:
        return LINK.sub(change, text)

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(change, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(change, markdown[end:])])


def _filled(nav: list, made: dict[str, list]) -> list:
    """The navigation with the entries that are made."""
    filled = []
    for entry in nav:
        ((name, pages),) = entry.items()
        filled.append(
            {name: made[name] if pages == MARK else _filled(pages, made) if isinstance(pages, list) else pages}
        )
    return filled


def _models() -> Iterator[tuple[str, str]]:
    """Pages of the model cards, with their titles."""
    for path, page in elsewhere().items():
        if page.startswith("models/"):
            title = re.search(r"^# (.*)$", (ROOT / path).read_text("utf-8"), re.M)
            assert title
            yield page, title[1]


# methods


def about(cls: type[Method]) -> str:
    """The docstring of a method's module."""
    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or cls.title)


def joined_rows(markdown: str) -> str:
    """Rows of a table that begin with an empty cell continue the row before, as in tables of docstrings."""
    lines: list[str] = []
    for line in markdown.splitlines():
        cells = [x.strip() for x in line.strip().strip("|").split("|")]
        if re.match(r"\|\s+\|", line) and lines and lines[-1].startswith("| ") and cells[1:]:
            before = [x.strip() for x in lines[-1].strip("|").split("|")]
            pairs = zip_longest(before, cells[: len(before)], fillvalue="")
            lines[-1] = "| " + " | ".join(f"{a} {b}".strip() for a, b in pairs) + " |"
        else:
            lines.append(line)
    return "\n".join(lines)


def first_sentence(cls: type[Method]) -> str:
    return " ".join(about(cls).split("\n\n")[0].split())


def methods_page() -> str:
    """All methods, with their first sentences."""
    rows = []
    for name in sorted(known_methods()):
        cls = get_method(name)
        rows.append([f"[{cls.title}]({name}.md)", f"`{name}`", cell(first_sentence(cls)), models_of(cls)])
    return (
        "# Methods\n\nA method makes a plan; its name is that of its file. "
        "`harmonica plan NAME --model … --steps … -o plan.safetensors` makes one, `harmonica methods NAME` prints its "
        "settings, and a line `- NAME: {setting: value}` in a configuration makes it a row of a table.\n\n"
        + rows_of_table(["Method", "Name", "What it is", "Models"], rows)
        + "\n"
    )


def models_of(cls: type[Method]) -> str:
    kinds = {"dit": "DiT", "pixart": "PixArt", "uvit": "U-ViT"}
    return ", ".join(kinds[k] for k in cls.kinds) or "all"


def method_page(name: str) -> str:
    """What a method is, its settings, and its rows in the committed runs."""
    cls = get_method(name)
    file = Path(source_file(name)).resolve()
    where = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else known_methods()[name]
    parts = [f"# {cls.title}", joined_rows(about(cls)), f"Name: `{name}`. Models: {models_of(cls)}. Source: `{where}`."]
    settings = [
        [f"`{f.name}`", cell(f.meaning), f"`{f.default}`", cell(f.type) + (f" in {f.range}" if f.range else "")]
        for f in settings_of(cls)
    ]
    parts += ["## Settings"]
    parts += [rows_of_table(["Setting", "Meaning", "Default", "Values"], settings) if settings else "None."]
    if any(row[2] == "`by scale`" for row in settings):
        parts.append("*By scale*: the recipe of the pocket or of the paper scale.")
    return "\n\n".join([*parts, "## Our rows", *our_rows(name)]) + "\n"


def our_rows(name: str) -> Iterator[str]:
    """A method's rows in every committed run that has it."""
    found = False
    for table in TABLES:
        rows = rows_of(name, table)
        if rows.empty:
            continue
        found = True
        yield f"### {title_of(table)}"
        seeds = rows.seeds.max() if "seeds" in rows else 1
        yield (
            f"{rows.samples.iloc[0]} images per row, {seeds} training {'seed' if seeds == 1 else 'seeds'}; "
            f"[all rows](../results/{table}.md)."
            + (f"{EARLIER} FID is in place of FID to uncached." if is_earlier(table) else "")
        )
        columns = [k for k in SHOWN if k in rows and not rows[k].isna().all()]
        if "FID_uncached" not in rows:
            columns.insert(columns.index("PSNR"), "FID")
        heads = ["Model", *(COLUMNS[k].heading if k in COLUMNS else "Case" for k in columns)]
        yield rows_of_table(heads, ([row.model, *(_shown(k, row) for k in columns)] for _, row in rows.iterrows()))
    if found:
        yield (
            "Theory × and Real ×: MACs and median latency of the case's uncached row, divided by the row's. FID to "
            "uncached and PSNR: to the uncached run of the same seeds, ± half of a 95 % interval, or in brackets the "
            "interval. Training s: what the plan cost, calibration and search included. "
            "[Definitions](../reading_results.md)."
        )
    else:
        yield f"No committed run of {', '.join(title_of(t).lower() for t in TABLES)} has a row of it."


def _shown(column: str, row: pd.Series) -> str:
    return str(row[column]) if column in ("case", "steps") else formatted(column, row)


def rows_of(name: str, table: str) -> pd.DataFrame:
    """A method's rows in a committed run: those whose label begins with its title and with no longer one."""
    rows = pd.read_csv(ROOT / REFERENCE / f"{table}.csv", dtype={"case": str})
    titles = {n: get_method(n).title for n in known_methods()}
    owners = [
        max((n for n in titles if label.startswith(titles[n])), key=lambda n: len(titles[n])) for label in rows.method
    ]
    return rows[[owner == name for owner in owners]]


def cell(text: str) -> str:
    """In a table of Markdown."""
    return text.replace("|", "\\|")


def is_earlier(table: str) -> bool:
    """Whether the committed run of a table was made before rows had training seeds and intervals."""
    return "seeds" not in pd.read_csv(ROOT / REFERENCE / f"{table}.csv", nrows=0)


def title_of(table: str) -> str:
    """Of a table or study, "Table 1" or what it is named."""
    return get_table(table).title.split(":")[0]


# figures


def gallery() -> str:
    """Every committed figure with its caption, the frontier and table 1 first."""
    tables = sorted(known_tables(), key=lambda t: (t not in TABLES, t))
    paths = [p for p in pictures() if p.startswith(REFERENCE)]
    order = {Path(p).stem: (min([i for i, t in enumerate(tables) if Path(p).stem.startswith(f"{t}-")], default=99), p)
             for p in paths}  # fmt: skip
    parts = [
        "# Figures",
        "Of the committed runs at the pocket scale. `make figures` draws all of them, as .png and .pdf.",
    ]
    for path in sorted(paths, key=lambda p: order[Path(p).stem]):
        figure, (heading, caption) = pictures()[path], caption_of(Path(path).stem)
        parts += [f"## {heading}", caption, f"[![{heading}]({figure})]({figure})"]
    return "\n\n".join(parts) + "\n"


def caption_of(stem: str) -> tuple[str, str]:
    """Heading and caption of a figure, by its name."""
    table, _, end = stem.rpartition("-")
    if table in known_tables():
        heading, caption = FIGURES[end]
        return heading.format(title_of(table)), caption + (EARLIER if is_earlier(table) else "")
    heading, caption = OTHER_FIGURES[table or end]
    return heading.format(end), caption


# Python and the command line


def commands_page() -> str:
    rows = ([f"`{name}`", cell(m.HELP), f"`{cell(m.EXAMPLE)}`"] for name, m in commands().items())
    return (
        "# Commands\n\nEvery job of the workflow is a command. `harmonica COMMAND --help` prints its options.\n\n"
        + rows_of_table(["Command", "What it does", "Example"], rows)
        + "\n"
    )


def api_page(package: str) -> str:
    """The public names of a package, or the public modules of one whose modules are its interface."""
    parts = [f"# {package}", inspect.cleandoc(import_module(package).__doc__ or "")]
    if package in MODULES:
        for name in public_modules(package):
            parts += [f"## {name}", f"::: {name}\n    options:\n      heading_level: 3\n      show_root_heading: false"]
        return "\n\n".join(parts) + "\n"
    parts += [f"::: {package}.{name}" for name in import_module(package).__all__]
    return "\n\n".join(parts) + "\n"


def public_modules(package: str) -> list[str]:
    walked = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    return sorted(m.name for m in walked if not m.ispkg and not m.name.rpartition(".")[2].startswith("_"))


# the notebook


def tour(config: MkDocsConfig, run: bool) -> dict[str, str | bytes]:
    """The notebook as a page with what it prints and draws; with `run` unset, without."""
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    if run:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the kernel's; the model is too small to share a product
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    parts: list[str] = []
    drawn: dict[str, str | bytes] = {}
    for c in notebook.cells:
        if c.cell_type == "markdown":
            parts.append(linked(c.source, "docs/tour.ipynb", config.repo_url))
            continue
        parts.append(f"```python\n{c.source}\n```")
        for output in c.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                drawn[f"tour/{len(drawn)}.png"] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell draws]({[*drawn][-1]})")
            elif "text/plain" in data or output.get("name") == "stdout":
                parts.append(f"```text\n{(data.get('text/plain') or output.text).rstrip()}\n```")
    return {"tour.md": "\n\n".join(parts) + "\n"} | drawn
