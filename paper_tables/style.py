"""How figures look: colours, markers, sizes, and how they are written."""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from harmonica.compression.registry import get_compressor, known_compressors  # noqa: E402
from harmonica.methods import get_method, known_methods  # noqa: E402
from harmonica.utils.files import write_atomic  # noqa: E402

MARKERS = "o^sDvP*X<>dp"
# Okabe and Ito's colour-blind safe palette, extended by others
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#7F5539", "#F0E442",
           "#5D3FD3", "#8B0000", "#5F7F7F", "#B8A13A", "#FF69B4")  # fmt: skip
# of compressions, from Paul Tol's muted palette
COMPRESSED = ("#882255", "#117733", "#AA4499", "#999933", "#332288", "#CC6677", "#44AA99")
AGAIN = "#17BECF"  # in place of the first, where they begin anew
DARKER, LIGHTER = (0.0, 0.45), (1.0, 0.5)  # a shade of them, and by how much: where they begin anew, and once more
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
    """The k-th colour and marker, no two of the first 45 alike. Black is the uncached row's alone."""
    around, own = divmod(k, len(COLOURS))
    colour = matplotlib.colors.to_rgb(COLOURS[own] if own or not around else AGAIN)
    if around:
        shade, share = (DARKER, LIGHTER)[(around - 1) % 2]
        r, g, b = ((1 - share) * c + share * shade for c in colour)
        colour = r, g, b
    return {"color": matplotlib.colors.to_hex(colour), "marker": MARKERS[k % len(MARKERS)]}


@cache
def _looks() -> dict[str, tuple[str, int]]:
    """The colour and the number of the first marker of every method and every compression, by title."""
    names = [n for n in ORDER if n in known_methods()]
    methods = [get_method(n).title for n in [*names, *sorted(set(known_methods()) - set(names))]]
    out = {title: (style(k)["color"], k) for k, title in enumerate(methods)}
    compressors = [get_compressor(n).title for n in sorted(known_compressors())]
    return out | {title: (COMPRESSED[k % len(COMPRESSED)], k) for k, title in enumerate(compressors)}


def styles(rows: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of every row, by its name in a figure: a method has the same ones in all figures, and so has a
    compression. A name begins with the title of its own; rows of one method that differ in settings have its colour
    and other markers, then letters. Plans on a compression ("… + …") come last, so that it has its own by itself, too.
    """
    names = dict.fromkeys(rows)
    out: dict[str, dict] = dict.fromkeys(names, {})
    seen: dict[str, int] = {}
    for name in sorted(names, key=lambda name: " + " in name):
        title = max((t for t in _looks() if name.startswith(t)), key=len, default="")
        colour, first = _looks().get(title, (style(len(_looks()))["color"], len(_looks())))
        again = seen[title] = seen.get(title, -1) + 1
        letter = f"${chr(ord('a') + (again - len(MARKERS)) % 26)}$"
        marker = MARKERS[(first + again) % len(MARKERS)] if again < len(MARKERS) else letter
        out[name] = {"color": colour, "marker": marker}
    return out


def small(rows: int = 1, height: float = 2.4):
    """A figure of one column."""
    return plt.subplots(rows, 1, figsize=(COLUMN, height * rows), squeeze=False, layout="constrained", sharex=True)
