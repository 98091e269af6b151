"""The layout that all tables of images share: every row beside its case's uncached one and the paper's."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmonica.evaluation import statistics
from harmonica.evaluation.metrics import METRICS, Metric
from harmonica.evaluation.statistics import speedup
from harmonica.experiments import Experiment, Row
from harmonica.experiments.config import uncached
from harmonica.plan import Plan, cache_bytes, macs
from paper_tables import figures
from paper_tables.verdicts import difference, verdicts

FIRST = 12  # images in the grid
SAMPLERS = {
    "ddim": "DDIM",
    "dpmsolver++": "DPM-Solver++",
    "iddpm": "IDDPM",
    "sa-solver": "SA-Solver",
    "dpm-solver": "DPM-Solver",
}


class Column(NamedTuple):
    """A column that is no metric of images; metrics bring their own heading and format."""

    name: str
    heading: str
    format: str = "{:g}"


_COLUMNS: tuple[Column | Metric, ...] = (
    Column("method", "Method"), Column("settings", "Settings"), Column("steps", "Steps"), *METRICS.values(),
    Column("CUR", "CUR %", "{:.2f}"), Column("GMACs", "GMACs", "{:.4g}"),
    Column("theoretical_speedup", "Theory ×", "{:.2f}"), Column("latency_s", "Latency s", "{:.4f}"),
    Column("speedup", "Real ×", "{:.2f}"), Column("cache_MB", "Cache MB", "{:.3f}"),
    Column("training_s", "Training s", "{:.0f}"), Column("training_images", "Images used", "{:.0f}"),
    Column("paper_CLIP", "paper CLIP"), Column("paper_IS", "paper IS"), Column("paper_FID", "paper FID"),
    Column("paper_speedup", "paper ×"),
)  # fmt: skip
COLUMNS = {c.name: c for c in _COLUMNS}
SPEEDUP = ("speedup", "speedup_q1", "speedup_q3")  # with the quartiles of the rounds' ratios
PUBLISHED = (*METRICS, "CUR", "speedup")
SHORT = ("method", "steps", "CLIP", "FID", "IS", "PSNR", "CUR", "theoretical_speedup", "speedup", "training_s",
         "training_images")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The inputs of a table's layout. `routers`, `metrics` and `images` are by slug of the experiment."""

    scale: str
    rows: list[Row]
    plans: dict[str, Plan]
    device: str
    routers: dict[str, Path]
    metrics: dict[str, dict[str, dict]]  # by case, then slug
    latency: dict[str, Any]
    images: dict[str, tuple[np.ndarray, np.ndarray]]  # the first of each row, with their labels

    def metrics_of(self, rows: Iterable[Row]) -> list[dict]:
        """The metrics of rows."""
        return [self.metrics[r.case][r.slug] for r in rows]


@dataclass(frozen=True)
class Table:
    """A table of images: its own choices."""

    title: str
    metrics: tuple[str, ...]  # columns of the csv
    shown: tuple[str, ...]  # those in the readable table
    figure: tuple[str, ...]  # those plotted against the speed-up
    published: Callable[[Experiment, int], dict] = lambda e, steps: {}  # the paper's row, for a plan's steps
    source: str = ""  # what the paper's columns are; "" if there are none
    settings: bool = False  # whether settings distinguish the rows

    def build(self, measured: Measured) -> pd.DataFrame:
        """One row per experiment and block; `metrics` are by case and slug.

        GMACs and cache are for one image with both guidance halves; latency is for the batch."""
        out, rows, plans, latency = [], measured.rows, measured.plans, measured.latency
        for r in rows:
            e, plan, model = r.experiment, plans[r.slug], r.experiment.model
            base = uncached(rows, r.case)
            (m, of_base), own, full = (
                measured.metrics_of([r, base]),
                latency["plans"][r.slug],
                latency["plans"][base.slug],
            )
            halves = 1 if e.protocol.cfg == 1 else 2
            own_macs = macs(plan, model.layout)
            out.append({
                "scale": measured.scale, "model": model.title, "resolution": model.resolution,
                "sampler": SAMPLERS[e.protocol.sampler], "cfg": e.protocol.cfg,
                "case": r.case, "method": e.method.label(),
                **({"settings": _settings(r)} if self.settings else {}), "steps": plan.steps,
                **self._with_intervals(m, of_base),
                "CUR": plan.cur, "GMACs": halves * own_macs / 1e9,
                "theoretical_speedup": macs(plans[base.slug], model.layout) / own_macs,
                "latency_s": own["latency_s"],
                **dict(zip(SPEEDUP, speedup(full["rounds_s"], own["rounds_s"]), strict=True)),
                "cache_MB": cache_bytes(plan, model.layout, guided=halves == 2) / 1e6,
                "training_s": plan.origin.cost.get("training_s", 0),
                "training_images": plan.origin.cost.get("images", 0),
                "samples": m["N"], **{k: m[k] for k in ("extractor", "clip_model") if k in m},
                **{f"paper_{k}": v for k, v in self.published(e, plan.steps).items() if k in PUBLISHED},
            })  # fmt: skip
        table = pd.DataFrame(out)
        self._mark_best(table, measured)
        comparable = PUBLISHED if measured.scale == "paper" else ("CUR", "speedup")  # a pocket FID is not Inception's
        for k in comparable:
            if f"paper_{k}" in table:
                table[f"delta_{k}"] = table[k] - table[f"paper_{k}"]
        return table

    def _with_intervals(self, own: dict, base: dict) -> dict[str, float]:
        """The metrics of a row, with intervals, and with the paired differences to the uncached row."""
        out: dict[str, float] = {}
        for k in (k for k in self.metrics if k in own):
            out[k] = own[k]
            if k in own["blocks"]:
                out[f"{k}_low"], out[f"{k}_high"] = statistics.interval(own[k], np.array(own["blocks"][k]))
                if METRICS[k].needs != "uncached":
                    out[f"d{k}"], out[f"d{k}_low"], out[f"d{k}_high"] = difference(own, base, k)
        return out

    def _mark_best(self, table: pd.DataFrame, measured: Measured) -> None:
        """Add `best_M`: which accelerated rows of a case are the best in M, or do not differ from it (Holm)."""
        for case in table.case.unique():
            rivals = table.index[table.case == case][1:]
            found = measured.metrics_of(measured.rows[i] for i in rivals)
            for k in self.metrics:
                if found and all(k in m["blocks"] for m in found):
                    best = statistics.tied_with_best(
                        [m[k] for m in found], [np.array(m["blocks"][k]) for m in found], METRICS[k].sign
                    )
                    table.loc[rivals, f"best_{k}"] = best

    def markdown(self, table: pd.DataFrame, measured: Measured) -> str:
        """One readable table per case; the best value of each metric among the accelerated rows is bold."""
        first, latency, scale = table.iloc[0], measured.latency, measured.scale
        extractor = f"**{first.extractor}**"
        if scale == "pocket":
            extractor += " (not Inception: comparable only with each other, at equal N)"
        pairs = min(m["N_pairs"] for rows in measured.metrics.values() for m in rows.values())
        kept = f", over the first {pairs}" if pairs < first["samples"] else ""
        batches = " or ".join(str(b) for b in sorted({r["batch"] for r in latency["plans"].values()}))
        features = [k for k in self.shown if METRICS[k].needs == "features"]
        clip = (
            f" CLIP is 100·max(cos, 0) by open_clip's **{first.clip_model}**, without prefix."
            if "clip_model" in table
            else ""
        )
        source = f" The paper's columns are {self.source}, if it has the row" if self.source else ""
        if source:
            source += ": in brackets, the published value and the difference to it." if scale == "paper" else "."
        parts = [
            f"# {self.title}, {scale} scale",
            f"{first['samples']} images per row, guidance scale {first.cfg:g}. {', '.join(features)}: in the features "
            f"of {extractor}.{clip} PSNR: to the uncached image of the same seed{kept}. Latency: a batch of "
            f"{batches} from noise to latents on {latency['device']} ({latency['threads']} threads, "
            f"{latency['precision']}), median "
            f"of {latency['rounds']} interleaved rounds. GMACs and cache: one image, both guidance halves. Theory × "
            f"and Real × are against the case's uncached row; Real × is the ratio of median latencies.{source}",
            "±: 95 % intervals over the images. Bold: the best accelerated row, and those that do not differ from it "
            "(paired by seeds, Holm's procedure). FID to uncached: between the images of a row and of the uncached "
            "row from the same seeds; it says what the cache changed, and is 0 for the uncached row.",
        ]
        for case, block in table.groupby("case", sort=False):
            parts.append(f"## {block.model.iloc[0]}, {block.resolution.iloc[0]}×{block.resolution.iloc[0]}, "
                         f"{block['sampler'].iloc[0]}, case {case}")  # fmt: skip
            hidden = set(self.metrics) - set(self.shown)
            empty = block.isna().all() | (block == "").all()
            heads = {k: c.heading for k, c in COLUMNS.items() if k in block and k not in hidden and not empty[k]}
            if scale == "paper":  # the published value is in the cell itself
                heads = {k: v for k, v in heads.items() if not k.startswith("paper_")}
            parts.append(_block(block, heads, published=scale == "paper"))
            found = measured.metrics_of(measured.rows[i] for i in block.index)
            lines = list(verdicts(block.method.tolist(), block.GMACs.tolist(), found))
            if lines:
                parts.append("The paper's claims here (difference and its 95 % interval):\n\n" + "\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def draw(self, table: pd.DataFrame, measured: Measured, stem: Path) -> None:
        """Write the figures of the table: `stem`-speedup, -router and -samples, .png and .pdf."""
        rows = measured.rows
        titles = list(figures.named(table))
        figures.speedup(table, self.figure, stem.with_name(f"{stem.name}-speedup.png"))
        figures.routers(rows, measured.plans, measured.routers, stem.with_name(f"{stem.name}-router.png"))
        images = {slug: x[:FIRST] for slug, (x, _) in measured.images.items()}
        captions = requested(rows, {slug: y[:FIRST].tolist() for slug, (_, y) in measured.images.items()})
        figures.grid(rows, images, titles, captions, stem.with_name(f"{stem.name}-samples.png"))


def class_conditional(title: str, published: Callable[[Experiment, int], dict], source: str) -> Table:
    """A table of the paper for models of classes."""
    return Table(
        title=title,
        metrics=("IS", "FID", "cleanfid_FID", "sFID", "FID_uncached", "sFID_uncached", "precision", "recall", "PSNR",
                 "agreement"),
        shown=("IS", "FID", "sFID", "FID_uncached", "precision", "recall", "PSNR"),
        figure=("FID", "FID_uncached", "IS"),
        published=published,
        source=source,
    )  # fmt: skip


def study(title: str) -> Table:
    """A study of ours: rows are distinguished by their settings, and have no published numbers."""
    return Table(
        title=title,
        metrics=("IS", "FID", "cleanfid_FID", "sFID", "FID_uncached", "sFID_uncached", "precision", "recall", "PSNR"),
        shown=("IS", "FID", "sFID", "FID_uncached", "PSNR"),
        figure=("FID", "FID_uncached", "IS"),
        settings=True,
    )


def requested(rows: list[Row], labels: dict[str, list[int]]) -> dict[str, list[str]]:
    """The captions of the first images of every case that has captions."""
    out = {}
    for r in rows:
        captions = r.experiment.model.captions
        if captions and r.case not in out:
            texts = captions.read()
            out[r.case] = [texts[k] for k in labels[r.slug]]
    return out


def _settings(row: Row) -> str:
    """The configuration's settings besides target CUR."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.given if k != "target_cur")


def short(table: pd.DataFrame, case: str) -> str:
    """One case with the columns that fit a README."""
    block = table[table.case.astype(str) == case]
    return _block(block, {k: COLUMNS[k].heading for k in SHORT if k in block})


def _beside(block: pd.DataFrame, heads: dict[str, str]) -> list[dict[str, str]]:
    """Per row, what to write after a cell: the published value and the difference to it, if they are comparable."""
    out = []
    for _, row in block.iterrows():
        known = [k for k in heads if f"delta_{k}" in block and not pd.isna(row[f"delta_{k}"])]
        out.append({k: f" ({row[f'paper_{k}']:g}, {row[f'delta_{k}']:+.2f})" for k in known})
    return out


def rows_of_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown of a table from its formatted cells."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


def _block(block: pd.DataFrame, heads: dict[str, str], published: bool = False) -> str:
    rivals = block.iloc[1:] if len(block) > 1 else block
    best = {k: m.sign * (m.sign * rivals[k]).max() for k, m in METRICS.items() if k in block}
    rows = []
    beside = _beside(block, heads) if published else [{}] * len(block)
    for i, (_, row) in enumerate(block.iterrows()):
        cells = []
        for k in heads:
            text = _cell(k, row[k]) + _half_width(k, row)
            found = row.get(f"best_{k}", row[k] == best[k] if k in best else False)
            is_best = not pd.isna(found) and bool(found)
            text = f"**{text}**" if i and is_best else text
            cells.append(text + beside[i].get(k, ""))
        rows.append(cells)
    return rows_of_table(heads.values(), rows)


def _half_width(column: str, row: pd.Series) -> str:
    """Half of the 95 % interval after a metric, unless it rounds to 0."""
    low, high = (row.get(f"{column}_{end}", float("nan")) for end in ("low", "high"))
    text = "" if pd.isna(low) else COLUMNS[column].format.format((high - low) / 2)
    return " ±" + text.removeprefix("0") if text.strip("0.") else ""


def _cell(column: str, value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value) or (column in ("CUR", "training_s", "training_images", "cache_MB") and value == 0):
        return "–"
    if value == float("inf"):
        return "∞"
    return COLUMNS[column].format.format(value)
