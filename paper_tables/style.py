"""How figures look: colours, markers, sizes, and how they are written."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from harmonica.utils.files import write_atomic  # noqa: E402

MARKERS = "o^sDvP*Xh<>dp8"
# Okabe and Ito's colour-blind safe palette, extended by grey, brown and purple
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#7F5539", "#F0E442",
           "#5D3FD3")  # fmt: skip
COLUMN = 3.5  # inches, of a page of two columns
matplotlib.rcParams.update({"pdf.fonttype": 42, "svg.hashsalt": "harmonica"})  # text stays text


def save(figure, path: Path) -> None:
    """Write the figure as `path` (.png) and beside it as .pdf."""
    for kind in ("png", "pdf"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200 if figure.get_figwidth() <= COLUMN else 130)
        write_atomic(path.with_suffix(f".{kind}"), data.getvalue())
    plt.close(figure)


def style(k: int) -> dict:
    """Colour and marker of the k-th method."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def small(rows: int = 1, height: float = 2.4):
    """A figure of one column."""
    return plt.subplots(rows, 1, figsize=(COLUMN, height * rows), squeeze=False, layout="constrained", sharex=True)
