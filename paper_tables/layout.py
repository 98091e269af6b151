"""The layout all tables share: every row next to the uncached one of its case, and to the paper's."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from harmonica import methods
from harmonica.experiment import Experiment
from harmonica.models import Model, get_model
from harmonica.plan import Plan
from harmonica.suite import Row, uncached

PUBLISHED = ("IS", "CLIP", "FID", "sFID", "precision", "recall", "CUR", "speedup")
HIGHER, LOWER = ("IS", "CLIP", "precision", "recall", "PSNR"), ("FID", "sFID")
SAMPLERS = {
    "ddim": "DDIM",
    "dpmsolver++": "DPM-Solver++",
    "iddpm": "IDDPM",
    "sa-solver": "SA-Solver",
    "dpm-solver": "DPM-Solver",
}
FORMATS = {
    "CLIP": "{:.2f}", "IS": "{:.3f}", "FID": "{:.3f}", "sFID": "{:.3f}", "precision": "{:.1f}", "recall": "{:.1f}",
    "PSNR": "{:.2f}", "CUR": "{:.2f}", "GMACs": "{:.4g}", "theoretical_speedup": "{:.2f}", "latency_s": "{:.4f}",
    "speedup": "{:.2f}", "cache_MB": "{:.3f}", "training_s": "{:.0f}", "training_images": "{:.0f}",
}  # fmt: skip
HEADS = {
    "method": "Method", "settings": "Settings", "steps": "Steps", "CLIP": "CLIP ↑", "IS": "IS ↑",
    "FID": "FID ↓", "sFID": "sFID ↓", "precision": "Prec. ↑", "recall": "Recall ↑", "PSNR": "PSNR ↑",
    "CUR": "CUR %", "GMACs": "GMACs", "theoretical_speedup": "Theory ×", "latency_s": "Latency s",
    "speedup": "Real ×", "cache_MB": "Cache MB",
    "training_s": "Training s", "training_images": "Images used", "paper_CLIP": "paper CLIP", "paper_IS": "paper IS",
    "paper_FID": "paper FID", "paper_speedup": "paper ×",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What is a table's own."""

    title: str
    metrics: tuple[str, ...]  # of quality, columns of the csv
    shown: tuple[str, ...]  # those in the readable table
    figure: tuple[str, str]  # those drawn against the speed-up
    published: Callable[[Experiment, int, Model], dict]  # the paper's row of an experiment, of a plan's steps
    source: str  # what the paper's columns are; "" without any
    settings: bool = False  # whether rows are told apart by what is set


def build(
    about: Table, rows: list[Row], plans: dict[str, Plan], metrics: dict[str, dict], latency: dict
) -> pd.DataFrame:
    """One row an experiment and block; `metrics` are by case and experiment.

    GMACs and cache are for one image with both guidance halves; latency is for the batch."""
    out = []
    for r in rows:
        e, plan, model = r.experiment, plans[r.slug], get_model(r.experiment.model)
        base = uncached(rows, r.case)
        m, own, full = metrics[r.case][r.slug], latency["plans"][r.slug], latency["plans"][base.slug]
        halves = 1 if e.cfg == 1 else 2
        macs = plan.macs(model.shape)
        out.append({
            "model": model.title, "resolution": model.resolution, "sampler": SAMPLERS[e.sampler], "cfg": e.cfg,
            "case": r.case, "method": methods.title(e.method, e.settings),
            **({"settings": _said(r)} if about.settings else {}), "steps": plan.steps,
            **{k: m[k] for k in about.metrics},
            "CUR": plan.cur, "GMACs": halves * macs / 1e9,
            "theoretical_speedup": plans[base.slug].macs(model.shape) / macs,
            "latency_s": own["latency_s"],
            "speedup": statistics.median(f / o for f, o in zip(full["rounds_s"], own["rounds_s"], strict=True)),
            "cache_MB": plan.cache_bytes(model.shape, guided=halves == 2) / 1e6,
            "training_s": plan.origin.cost.get("training_s", 0), "training_images": plan.origin.cost.get("images", 0),
            "samples": m["N"], **{k: m[k] for k in ("extractor", "clip_model") if k in m},
            **{f"paper_{k}": v for k, v in about.published(e, plan.steps, model).items() if k in PUBLISHED},
        })  # fmt: skip
    table = pd.DataFrame(out)
    paper = get_model(rows[0].experiment.model).scale == "paper"
    comparable = PUBLISHED if paper else ("CUR", "speedup")  # a pocket FID is not Inception's
    for k in comparable:
        if f"paper_{k}" in table:
            table[f"delta_{k}"] = table[k] - table[f"paper_{k}"]
    return table


def _said(row: Row) -> str:
    """What the configuration sets besides the ratio that is asked for."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.given if k != "target_cur")


SHORT = (
    "method",
    "steps",
    "CLIP",
    "FID",
    "IS",
    "PSNR",
    "CUR",
    "theoretical_speedup",
    "speedup",
    "training_s",
    "training_images",
)


def short(table: pd.DataFrame, case: str) -> str:
    """One case with the columns that fit a README."""
    block = table[table.case.astype(str) == case]
    return _block(block, {k: HEADS[k] for k in SHORT if k in block})


def markdown(about: Table, table: pd.DataFrame, latency: dict, scale: str) -> str:
    """A readable table a case; the best value of each metric among the accelerated rows is bold."""
    first = table.iloc[0]
    extractor = f"**{first.extractor}**"
    if scale == "pocket":
        extractor += " (not Inception: they compare only with each other, at equal N)"
    features = [k for k in about.shown if k not in ("CLIP", "PSNR")]
    clip = (
        f" CLIP is 100·max(cos, 0) by open_clip's **{first.clip_model}**, without prefix."
        if "clip_model" in table
        else ""
    )
    source = f" The paper's columns are {about.source}, where it has the row" if about.source else ""
    if source:
        source += ": in brackets, the published value and the difference to it." if scale == "paper" else "."
    parts = [
        f"# {about.title}, {scale} scale",
        f"{first['samples']} images a row, guidance scale {first.cfg:g}. {', '.join(features)}: in the features of "
        f"{extractor}.{clip} PSNR: to the uncached image of the same seed. Latency: a batch of {latency['batch']} from "
        f"noise to latents on {latency['device']} ({latency['threads']} threads), median of {latency['rounds']} "
        "interleaved rounds. GMACs and cache: one image, both guidance halves. Theory × and Real × are against the "
        f"case's uncached row.{source}",
    ]
    for case, block in table.groupby("case", sort=False):
        parts.append(f"## {block.model.iloc[0]}, {block.resolution.iloc[0]}×{block.resolution.iloc[0]}, "
                     f"{block['sampler'].iloc[0]}, case {case}")  # fmt: skip
        hidden = set(about.metrics) - set(about.shown)
        empty = block.isna().all() | (block == "").all()
        heads = {k: v for k, v in HEADS.items() if k in block and k not in hidden and not empty[k]}
        if scale == "paper":  # the published value stands in the cell itself
            heads = {k: v for k, v in heads.items() if not k.startswith("paper_")}
        parts.append(_block(block, heads, published=scale == "paper"))
    return "\n\n".join(parts) + "\n"


def _beside(block: pd.DataFrame, heads: dict[str, str]) -> list[dict[str, str]]:
    """Per row, what to write behind a cell: the published value and the difference to it, where they compare."""
    out = []
    for _, row in block.iterrows():
        known = [k for k in heads if f"delta_{k}" in block and not pd.isna(row[f"delta_{k}"])]
        out.append({k: f" ({row[f'paper_{k}']:g}, {row[f'delta_{k}']:+.2f})" for k in known})
    return out


def rows_of_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown of a table from its written cells."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


def _block(block: pd.DataFrame, heads: dict[str, str], published: bool = False) -> str:
    rivals = block.iloc[1:] if len(block) > 1 else block
    best = {k: rivals[k].max() for k in HIGHER if k in block} | {k: rivals[k].min() for k in LOWER}
    rows = []
    beside = _beside(block, heads) if published else [{}] * len(block)
    for i, (_, row) in enumerate(block.iterrows()):
        cells = []
        for k in heads:
            text = _cell(k, row[k])
            text = f"**{text}**" if i and k in best and row[k] == best[k] else text
            cells.append(text + beside[i].get(k, ""))
        rows.append(cells)
    return rows_of_table(heads.values(), rows)


def _cell(column: str, value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value) or (column in ("CUR", "training_s", "training_images", "cache_MB") and value == 0):
        return "–"
    if value == float("inf"):
        return "∞"
    return FORMATS.get(column, "{:g}").format(value)
