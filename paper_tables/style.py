"""How figures look: colours, markers, sizes, and how they are written."""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from harmonica.methods import get_method, known_methods  # noqa: E402
from harmonica.utils.files import write_atomic  # noqa: E402

MARKERS = "o^sDvP*Xh<>dp8"
# Okabe and Ito's colour-blind safe palette, extended by others
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#7F5539", "#F0E442",
           "#5D3FD3", "#8B0000", "#5F7F7F", "#B8A13A", "#FF69B4")  # fmt: skip
AGAIN = "#17BECF"  # in place of the first, where they begin anew
COLUMN = 3.5  # inches, of a page of two columns
matplotlib.rcParams.update({"pdf.fonttype": 42, "svg.hashsalt": "harmonica"})  # text stays text


def save(figure, path: Path) -> None:
    """Write the figure as `path` (.png) and beside it as .pdf."""
    for kind in ("png", "pdf"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200 if figure.get_figwidth() <= COLUMN else 130)
        write_atomic(path.with_suffix(f".{kind}"), data.getvalue())
    plt.close(figure)


# their order decides colour and marker; others follow by name
ORDER = ("full", "fewer_steps", "better_solver", "learning_to_cache", "harmonica", "sdt_ltc", "fora", "delta_dit",
         "deepcache", "faster_diffusion", "step_search", "harmonica_forecast", "random_plan", "direct")  # fmt: skip


def style(k: int) -> dict:
    """The k-th colour and marker. Black is the uncached row's alone."""
    colour = COLOURS[k % len(COLOURS)]
    return {"color": colour if k % len(COLOURS) or not k else AGAIN, "marker": MARKERS[k % len(MARKERS)]}


@cache
def _titles() -> tuple[str, ...]:
    """The titles of all methods, in the order of their colours."""
    names = [n for n in ORDER if n in known_methods()]
    return tuple(get_method(n).title for n in [*names, *sorted(set(known_methods()) - set(names))])


def styles(rows: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of every row, by its name in a figure: a method has the same ones in all figures. A name begins
    with its method's title; rows of one method that differ in settings have its colour and other markers."""
    out: dict[str, dict] = {}
    seen: dict[int, int] = {}
    for name in dict.fromkeys(rows):
        fitting = [k for k, title in enumerate(_titles()) if name.startswith(title)]
        k = max(fitting, key=lambda k: len(_titles()[k]), default=len(_titles()))
        again = seen[k] = seen.get(k, -1) + 1
        out[name] = {"color": style(k)["color"], "marker": style(k + again)["marker"]}
    return out


def small(rows: int = 1, height: float = 2.4):
    """A figure of one column."""
    return plt.subplots(rows, 1, figsize=(COLUMN, height * rows), squeeze=False, layout="constrained", sharex=True)
