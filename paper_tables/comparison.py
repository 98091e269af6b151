"""The page of `harmonica compare`: a figure, a table, pictures, and what to use."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from harmonica.utils import provenance
from paper_tables.style import styles

SIDE = 192  # pixels of a picture on the page
SHOWN = 4  # pictures of a row
COLUMNS = {
    "method": "Method", "steps": "Steps", "theoretical_speedup": "Theory ×", "speedup": "Real ×", "PSNR": "PSNR ↑",
    "latent_PSNR": "PSNR of latents ↑", "CUR": "CUR %", "tuning_s": "Tuning s", "tuning_images": "Tuning images",
}  # fmt: skip


def metric(table: pd.DataFrame) -> str:
    """What rows are compared by: pictures, if they were decoded."""
    return "PSNR" if "PSNR" in table else "latent_PSNR"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is printed, values with half of their 95 % interval; the best of each requested speed-up at equal
    MACs, and those that images do not tell from it, have a star."""
    out = pd.DataFrame({title: table[k].map(_short) for k, title in COLUMNS.items() if k in table})
    for k in ("PSNR", "latent_PSNR"):
        if k in table:
            half = (table[f"{k}_high"] - table[k]).map(lambda x: "" if np.isnan(x) else f" ±{x:.2f}")
            out[COLUMNS[k]] = table[k].map(lambda x: "–" if np.isnan(x) else f"{x:.2f}") + half
    starred = table.tied & (table.name != "full")
    out.loc[starred, "Method"] = table.loc[starred, "method"] + " *"
    return out


def _short(x: Any) -> str:
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def text(table: pd.DataFrame) -> str:
    """The table, and the best row of each requested speed-up."""
    return "\n".join([formatted(table).to_string(index=False), *advice(table)])


def advice(table: pd.DataFrame) -> list[str]:
    """For every requested speed-up, of the rows that have it the one that is closest to the uncached images, and those
    that do not differ from it; the others with the speed-up that they have."""
    by, out = metric(table), []
    for x, rows in table[table.name != "full"].groupby("requested_speedup"):
        ranked = list(rows.sort_values(by, ascending=False).itertuples())
        compared = [r for r in ranked if r.compared]
        line = f"{x:g}x fewer MACs: "
        if compared:
            first, *others = compared
            line += f"{first.method}, {getattr(first, by):.2f} dB"
            tied = [f"{r.method} ({getattr(r, by):.2f})" for r in others if r.tied]
            if tied:
                line += f"; not told apart from it by these images: {', '.join(tied)}"
            elif others:
                line += f"; next {others[0].method} ({getattr(others[0], by):.2f})"
        missed = [
            f"{r.method} ({getattr(r, by):.2f} at {r.theoretical_speedup:.2f}x)" for r in ranked if not r.compared
        ]
        if missed:
            line += f"{'; ' if compared else ''}not at equal MACs: {', '.join(missed)}"
        out.append(line)
    return out


def page(calls: Any, table: pd.DataFrame, found: list[Any]) -> str:
    """One HTML page without other files."""
    p, shown = calls.protocol, formatted(table)
    about = (
        f"{p.model}, {p.sampler}, {p.steps} steps, guidance scale {p.cfg:g}; {len(found[0].seconds)} images, none of "
        f"which a method learned from; {provenance.device()}. PSNR is to the uncached pipeline's images of the same "
        "seeds, ± half of a 95 % interval. Real × is the ratio of median seconds without text encoder and decoder, "
        "all rows interleaved. Stars: the best at each requested speed-up, of the rows within 5 % of it, and what "
        "these images do not tell from it."
    )
    parts = [
        f"<h1>Caching on {html.escape(type(calls.pipe).__name__)}</h1>", f"<p>{html.escape(about)}</p>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in advice(table)) + "</ul>",
        f'<img alt="trade-off" src="data:image/png;base64,{_figure(table)}">',
        shown.to_html(index=False, border=0), _pictures(found),
        "<p>Plans are in the folder <code>plans/</code>: <code>harmonica.enable_cache(pipe, FILE)</code> runs one.</p>",
    ]  # fmt: skip
    look = (
        "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
        "td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}"
        "td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%}figure{display:inline-block;margin:.4em}"
    )
    head = f"<meta charset=utf-8><title>harmonica compare</title><style>{look}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _figure(table: pd.DataFrame) -> str:
    by = metric(table)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    rows = table[table.name != "full"]
    looks = styles(rows.method)
    for ax, x, label in zip(axes, ("theoretical_speedup", "speedup"), ("theoretical", "measured"), strict=True):
        for name in dict.fromkeys(rows.method):
            own = rows[rows.method == name].sort_values(x)
            error = np.abs(own[[f"{by}_low", f"{by}_high"]].to_numpy().T - own[by].to_numpy())
            ax.errorbar(own[x], own[by], np.nan_to_num(error), label=name, capsize=2, **looks[name])
        ax.set_xlabel(f"{label} speed-up")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR to the uncached " + ("images" if by == "PSNR" else "latents") + ", dB")
    axes[0].legend(frameon=False)
    return _encoded(lambda data: figure.savefig(data, format="png", dpi=120), figure)


def _encoded(write: Any, figure: Any = None) -> str:
    data = io.BytesIO()
    write(data)
    if figure is not None:
        plt.close(figure)
    return base64.b64encode(data.getvalue()).decode()


def _pictures(found: list[Any]) -> str:
    """The first pictures of every row; nothing without pictures."""
    if not found[0].pictures:
        return ""
    out = ["<h2>Pictures</h2>"]
    for c in found:
        name = c.label if c.requested == 1 else f"{c.label}, {c.requested:g}×"
        row = "".join(f'<img alt="" src="data:image/png;base64,{_small(x)}"> ' for x in c.pictures[:SHOWN])
        out.append(f"<figure>{row}<figcaption>{html.escape(name)}</figcaption></figure>")
    return "".join(out)


def _small(x: np.ndarray) -> str:
    picture = Image.fromarray(x.squeeze())
    scale = SIDE / max(picture.width, 1)
    size = (SIDE, max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    return _encoded(lambda data: picture.save(data, format="png"))
