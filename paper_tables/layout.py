"""The layout that all tables of images share: every row beside its case's uncached one and the paper's."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmonica.compression.costs import bit_operations
from harmonica.evaluation.metrics import METRICS, Metric
from harmonica.evaluation.records import in_precision
from harmonica.evaluation.statistics import speedup, tied_with_best
from harmonica.experiments import Experiment, Row
from harmonica.models import get_model
from harmonica.plan import Plan, cache_bytes, macs, macs_at
from harmonica.utils.precision import PRECISIONS
from paper_tables import figures, verdicts
from paper_tables.measured import Measured
from paper_tables.published import SAMPLERS, caches_as_much, of_images


class Column(NamedTuple):
    """A column that is no metric of images; metrics bring their own heading and format."""

    name: str
    heading: str
    format: str = "{:g}"


_COLUMNS: tuple[Column | Metric, ...] = (
    Column("method", "Method"), Column("settings", "Settings"), Column("steps", "Steps"), *METRICS.values(),
    Column("CUR", "CUR %", "{:.2f}"), Column("GMACs", "GMACs", "{:.4g}"),
    Column("theoretical_speedup", "Theory ×", "{:.2f}"), Column("bit_operations", "Bit op. ×", "{:.1f}"),
    Column("interaction", "Interaction", "{:.4f}"), Column("size_MB", "Size MB", "{:.3g}"),
    Column("size_ratio", "FP32 ÷ size", "{:.2f}"), Column("size_ratio_half", "FP16 ÷ size", "{:.2f}"),
    Column("latency_s", "Latency s", "{:.4f}"),
    Column("speedup", "Real ×", "{:.2f}"), *(Column(f"speedup_{p}", f"Real × of {p}", "{:.2f}") for p in PRECISIONS),
    Column("cache_MB", "Cache MB", "{:.3f}"),
    Column("compression_s", "Compression s", "{:.0f}"), Column("training_s", "Training s", "{:.0f}"),
    Column("training_images", "Images used", "{:.0f}"),
    Column("paper_CLIP", "paper CLIP"), Column("paper_IS", "paper IS"), Column("paper_FID", "paper FID"),
    Column("paper_speedup", "paper ×"), Column("paper_size_ratio", "paper size ÷"),
)  # fmt: skip
COLUMNS = {c.name: c for c in _COLUMNS}
SPEEDUP = ("speedup", "speedup_q1", "speedup_q3")  # with the quartiles of the rounds' ratios
MISSED = 0.1  # of a budget
PUBLISHED = (*METRICS, "CUR", "speedup", "size_ratio")
SHORT = ("method", "steps", "FID", "FID_uncached", "PSNR", "PSNR_converged", "CUR", "theoretical_speedup", "speedup",
         "training_s")  # fmt: skip


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
    notes: Callable[[pd.DataFrame, Measured], list[str]] = lambda table, measured: []  # paragraphs above the blocks
    joined: bool = False  # whether a figure shows all cases of one protocol in one panel
    budgets: bool = False  # whether rows of a case have one budget in MACs, that of their `target_cur`

    def build(self, measured: Measured, seeds: bool = False) -> pd.DataFrame:
        """One line per method and case, a learned one over its training seeds; with `seeds`, one per training seed.

        GMACs and cache are for one image with both guidance halves; latency is for the batch."""
        lines = [[r] for r in measured.rows] if seeds else measured.lines
        first = {measured.base(line).experiment.protocol: line[0].case for line in reversed(lines)}
        table = pd.DataFrame([
            self._line(line, measured, first[measured.base(line).experiment.protocol] == line[0].case)
            for line in lines
        ])  # fmt: skip
        if not seeds:
            self._mark_best(table, measured)
        comparable = (
            PUBLISHED if measured.scale == "paper" else ("CUR", "speedup", "size_ratio")
        )  # a pocket FID is not Inception's
        for k in comparable:
            if f"paper_{k}" in table:
                table[f"delta_{k}"] = table[k] - table[f"paper_{k}"]
        return table

    def _line(self, line: list[Row], measured: Measured, published: bool) -> dict[str, Any]:
        """A line; with `published` beside the paper's numbers, which are of the first case of a protocol."""
        e, base, plans = line[0].experiment, measured.base(line), measured.plans
        model, plan, first = e.model, plans[line[0].slug], measured.of(line[0])
        halves = 1 if e.protocol.cfg == 1 else 2
        own_macs = float(np.mean([measured.macs(r) for r in line]))
        assert measured.latency
        timed = measured.latency.plans
        full, own = timed[base.slug]["rounds_s"], [timed[r.slug]["rounds_s"] for r in line]
        cur, cur_sd = float(np.mean([measured.cur(r) for r in line])), measured.cur_sd(line)
        paper = self.published(e, plan.steps) if published and not model.own else {}
        paper = of_images(paper, e, first["N"]) if caches_as_much(paper, cur) else {}
        return {
            "scale": measured.scale, "model": model.title, "resolution": model.resolution,
            "sampler": SAMPLERS[plan.protocol.sampler], "cfg": e.protocol.cfg, "case": line[0].case,
            "heading": e.method.heading, "method": e.label,
            **({"settings": _settings(line[0])} if self.settings else {}),
            "steps": plan.steps, "seeds": len(line), **self._with_intervals(line, measured),
            "CUR": cur, **({} if cur_sd is None else {"CUR_sd": cur_sd}), "GMACs": halves * own_macs / 1e9,
            "theoretical_speedup": macs(plans[base.slug], model.layout) / own_macs,
            **({"budget": _budget(line[0], plans[base.slug])} if self.budgets else {}),
            **self._compressed(line, measured),
            "latency_s": float(np.median(np.concatenate(own))),
            **dict(zip(SPEEDUP, speedup(np.tile(full, len(line)), np.concatenate(own)), strict=True)),
            **{
                f"speedup_{p}": speedup(np.tile(timed[name]["rounds_s"], len(line)), np.concatenate(own))[0]
                for p in PRECISIONS
                if (name := in_precision(base.slug, p)) in timed
            },
            "cache_MB": measured.plan_mean(line, lambda p: cache_bytes(p, model.layout, guided=halves == 2)) / 1e6,
            "training_s": measured.plan_mean(line, lambda p: p.origin.cost.get("training_s", 0)),
            "training_images": measured.plan_mean(line, lambda p: p.origin.cost.get("images", 0))
            + max((c.origin.cost.get("images", 0) for r in line if (c := measured.compression(r))), default=0),
            "samples": first["N"], **{k: first[k] for k in ("extractor", "clip_model") if k in first},
            **{f"paper_{k}": v for k, v in paper.items() if k in (*PUBLISHED, "cfg")},
        }  # fmt: skip

    def _compressed(self, line: list[Row], measured: Measured) -> dict[str, float]:
        """Size, bit operations and cost of what a line runs on, and whether errors of compression and cache add up; in
        tables with compressions only. Sizes are those of the weights, in MB of 10^6 bytes."""
        if not measured.compressions:
            return {}
        found = [c for r in line if (c := measured.compression(r))]
        layout = line[0].experiment.model.layout
        full, row = float(4 * layout.parameters), line[0]
        size = float(np.mean([c.bytes for c in found])) if found else full
        before = bit_operations(measured.plans[measured.base(line).slug], layout, None)
        bits = float(np.mean([bit_operations(measured.plans[r.slug], layout, measured.compression(r)) for r in line]))
        return {
            "bit_operations": before / bits, "size_MB": size / 1e6, "size_ratio": full / size,
            "size_ratio_half": full / 2 / size,
            "compression_s": float(np.mean([c.origin.cost["training_s"] for c in found])) if found else float("nan"),
            **self._interaction(row, measured),
        }  # fmt: skip

    def _interaction(self, row: Row, measured: Measured) -> dict[str, float]:
        """FID_uncached(compression + cache) − FID_uncached(compression) − FID_uncached(cache), with its interval: above
        0 if the two together change images by more than their sum. Only for a row of both whose parts have rows."""
        lines = {(x[0].case, x[0].experiment.name, x[0].given, x[0].experiment.compression and
                  x[0].experiment.compression.label): x for x in measured.lines}  # fmt: skip
        e, metric = row.experiment, "FID_uncached"
        if e.compression is None or e.name == "full":
            return {}
        keys = ((row.case, e.name, row.given, e.compression.label), (row.case, "full", (), e.compression.label),
                (row.case, e.name, row.given, None))  # fmt: skip
        found = [measured.estimate(lines[k], metric) if k in lines else None for k in keys]
        both, of_compression, of_cache = found
        if both is None or of_compression is None or of_cache is None:
            return {}
        gap = both - of_compression - of_cache
        low, high = gap.interval()
        return {"interaction": gap.value, "interaction_low": low, "interaction_high": high}

    def _with_intervals(self, line: list[Row], measured: Measured) -> dict[str, float]:
        """The metrics of a line, with intervals, their spread over training seeds, and the paired differences to the
        uncached row."""
        out: dict[str, float] = {}
        base = [measured.base(line)]
        for k in self.metrics:
            found = [m[k] for r in line if k in (m := measured.of(r))]
            if not found:
                continue
            out[k] = float(np.mean(found))
            own, plain = measured.estimate(line, k), measured.estimate(base, k)
            if own:
                out[f"{k}_low"], out[f"{k}_high"] = METRICS[k].interval(own)
            if len(found) > 1:
                out[f"{k}_sd"] = float(np.std(found, ddof=1))
            if own and plain and METRICS[k].needs != "uncached":
                gap = own - plain
                out[f"d{k}"] = gap.value
                out[f"d{k}_low"], out[f"d{k}_high"] = gap.interval()
        return out

    def _mark_best(self, table: pd.DataFrame, measured: Measured) -> None:
        """Add `best_M`: which accelerated rows of a case are the best in M, or do not differ from it (Holm). Another
        solver with all of the case's steps is none of them."""
        for case in table.case.unique():
            rivals = [i for i in table.index[table.case == case][1:] if not _as_dear(measured.lines[i][0], table, i)]
            for k in self.metrics:
                found = [e for i in rivals if (e := measured.estimate(measured.lines[i], k))]
                if all(METRICS[k].on_log(e) for e in found):
                    found = [e.log() for e in found]
                if found and len(found) == len(rivals):
                    table.loc[rivals, f"best_{k}"] = tied_with_best(found, METRICS[k].sign)

    def markdown(self, table: pd.DataFrame, measured: Measured) -> str:
        """One readable table per case; the best value of each metric among the accelerated rows is bold."""
        latency, scale = measured.latency, measured.scale
        assert latency
        extractor = _each(table.extractor, "**{}**")
        if scale == "pocket":
            extractor += " (not Inception: comparable only with each other, at equal N)"
        found = [measured.of(r) for r in measured.rows]
        compared = {k: min((m[k] for m in found if k in m), default=0) for k in ("N_pairs", "N_converged")}
        kept = {k: f", over the first {n} images" if n < table["samples"].max() else "" for k, n in compared.items()}
        converged = (
            f" To converged: to the solution of the same seed by many steps{kept['N_converged']}; it says what a user "
            "loses, by the sampler and by the cache." if compared["N_converged"] else ""
        )  # fmt: skip
        seeds = (
            f" Rows of learned methods and the random plan are means over {table.seeds.max()} training seeds, whose "
            "spread is in the intervals; the CSV has their standard deviations (`_sd`)." if table.seeds.max() > 1 else
            " Learned methods have one training seed, so intervals do not say how much another seed would change."
        )  # fmt: skip
        bases = [p for p in PRECISIONS if f"speedup_{p}" in table]
        over = "".join(f" Real × of {p} is over the uncached row computed in that precision." for p in bases)
        steps = ", every kind of step one graph of torch.compile" if latency.compiled else ""
        batches = _each(sorted(r["batch"] for r in latency.plans.values()))
        features = [k for k in self.shown if METRICS[k].needs == "features"]
        clip = (
            f" CLIP is 100·max(cos, 0) by open_clip's {_each(table.clip_model, '**{}**')}, without prefix."
            if "clip_model" in table
            else ""
        )
        beside = self.source and any(str(k).startswith("paper_") for k in table)
        source = f" The paper's columns are {self.source}, {_condition(table, scale)}" if beside else ""
        parts = [
            f"# {self.title}, {scale} scale",
            f"{_each(table['samples'])} images per row, guidance scale {_each(table.cfg, '{:g}')}. "
            f"{', '.join(features)}: in the features "
            f"of {extractor}.{clip} PSNR, SSIM: to the uncached image of the same seed{kept['N_pairs']}.{converged}",
            f"Latency: a batch of {batches} from noise to latents on {latency.device} ({latency.threads} "
            f"threads, {latency.precision}{steps}), median of {latency.rounds} interleaved rounds{_spread(table)}. "
            "GMACs and cache: one image, both guidance halves. Theory × and Real × are against the case's uncached "
            f"row; Real × is the ratio of median latencies.{over}{source}",
            f"±, or in brackets: 95 % intervals over the images.{seeds} Bold: the best accelerated row, and "
            "those that do not differ from it (paired by seeds, Holm's procedure). FID to uncached: between the images "
            "of a row and of the uncached row from the same seeds; it says what the cache changed, and is 0 for the "
            "uncached row.",
        ]
        parts += [
            f"**Mixed devices**: images of these rows, or of those they are compared with, were made on {devices}, "
            f"which round differently: {', '.join(f'{r.experiment.label} ({r.case})' for r in rows)}."
            for devices, rows in measured.mixed().items()
        ]
        parts += self.notes(table, measured)
        said = self.verdicts(table, measured)
        for case, block in table.groupby("case", sort=False):
            parts.append(f"## {block.model.iloc[0]}, {block.resolution.iloc[0]}×{block.resolution.iloc[0]}, "
                         f"{block['sampler'].iloc[0]}, case {case}")  # fmt: skip
            hidden = set(self.metrics) - set(self.shown)
            empty = block.isna().all() | (block == "").all()
            heads = {k: c.heading for k, c in COLUMNS.items() if k in block and k not in hidden and not empty[k]}
            if scale == "paper":  # the published value is in the cell itself
                heads = {k: v for k, v in heads.items() if not k.startswith("paper_")}
            parts.append(_block(block, heads, published=scale == "paper"))
            lines = verdicts.text(said[str(case)])
            if lines:
                parts.append("The paper's claims here (difference, or × the ratio of distances between generated sets, "
                             "and its 95 % interval):\n\n" + "\n".join(lines))  # fmt: skip
        return "\n\n".join(parts) + "\n"

    def verdicts(self, table: pd.DataFrame, measured: Measured) -> dict[str, list[verdicts.Verdict]]:
        """What the rows of each case say of the paper's claims."""
        return {
            str(case): list(verdicts.verdicts([measured.lines[i] for i in block.index], block, measured))
            for case, block in table.groupby("case", sort=False)
        }

    def draw(self, table: pd.DataFrame, seeds: pd.DataFrame, measured: Measured, stem: Path) -> None:
        """Write the figures of the table, with the training seeds of its lines: `stem`-speedup (against MACs), -real
        (against measured time), -router and -samples, .png and .pdf."""
        panels = table.assign(panel=self.panels(table, measured))
        for name, x in (("speedup", "theoretical_speedup"), ("real", "speedup")):
            figures.speedup(panels, seeds, self.figure, x, stem.with_name(f"{stem.name}-{name}.png"))
        figures.routers(
            measured.lines, list(figures.named(table)), measured.plans, measured.routers,
            stem.with_name(f"{stem.name}-router.png"),
        )  # fmt: skip
        names = told_apart(table)
        shown = [i for i, line in enumerate(measured.lines) if line[0].slug in measured.images]
        figures.grid(
            [measured.lines[i] for i in shown], measured.images, [names[i] for i in shown],
            stem.with_name(f"{stem.name}-samples.png"),
        )  # fmt: skip

    def panels(self, table: pd.DataFrame, measured: Measured) -> list[str]:
        """The panel of a figure that each line is in: its case's, or all cases of one protocol share one."""
        protocols = [measured.base(line).experiment.protocol for line in measured.lines]
        if not self.joined:
            return [f"{SAMPLERS[p.sampler]}, case {c}" for p, c in zip(protocols, table.case, strict=True)]
        return [f"{get_model(p.model).title} {SAMPLERS[p.sampler]}, {p.steps} steps" for p in protocols]


DISTANCES = ("IS", "FID", "cleanfid_FID", "FID_infinity", "sFID", "FID_uncached", "sFID_uncached", "precision",
             "recall")  # fmt: skip
PER_IMAGE = ("PSNR", "PSNR_worst", "SSIM", "SSIM_worst", "LPIPS", "LPIPS_worst", "PSNR_converged", "FID_converged")


def class_conditional(title: str, published: Callable[[Experiment, int], dict], source: str, **more) -> Table:
    """A table of the paper for models of classes."""
    return Table(
        title=title,
        metrics=(*DISTANCES, *PER_IMAGE, "agreement"),
        shown=("IS", "FID", "FID_infinity", "sFID", "FID_uncached", "precision", "recall", "PSNR", "PSNR_worst",
               "SSIM", "LPIPS", "PSNR_converged", "FID_converged"),
        figure=("FID", "FID_uncached", "PSNR", "PSNR_converged"),
        published=published,
        source=source,
        joined=True,
        **more,
    )  # fmt: skip


def compressed_and_cached(title: str, published: Callable[[Experiment, int], dict], source: str, **more) -> Table:
    """A table of models of classes and of captions."""
    return Table(
        title=title,
        metrics=("CLIP", *DISTANCES, *PER_IMAGE),
        shown=("CLIP", "IS", "FID", "FID_infinity", "sFID", "FID_uncached", "PSNR", "PSNR_worst", "PSNR_converged"),
        figure=("FID", "FID_uncached", "PSNR", "PSNR_converged"),
        published=published,
        source=source,
        **more,
    )


def study(title: str) -> Table:
    """A study of ours: rows are distinguished by their settings, and have no published numbers."""
    return Table(
        title=title,
        metrics=(*DISTANCES, *PER_IMAGE),
        shown=("IS", "FID", "FID_infinity", "sFID", "FID_uncached", "PSNR", "PSNR_worst", "PSNR_converged"),
        figure=("FID", "FID_uncached", "PSNR", "PSNR_converged"),
        settings=True,
    )


def of_captions(title: str, **more) -> Table:
    """A table of text-to-image models."""
    return Table(
        title=title,
        metrics=("CLIP", *DISTANCES[1:-2], *PER_IMAGE),
        shown=("CLIP", "FID", "FID_infinity", "sFID", "FID_uncached", "PSNR", "PSNR_worst", "SSIM", "LPIPS",
               "PSNR_converged", "FID_converged"),
        figure=("FID", "FID_uncached", "CLIP", "PSNR", "PSNR_converged"),
        **more,
    )  # fmt: skip


def told_apart(table: pd.DataFrame) -> list[str]:
    """A name for every line that no other of its case has: with its steps or its CUR where they tell it apart."""
    names = figures.named(table)
    for more in (table.steps.astype(str) + " steps", "CUR " + table.CUR.map("{:.0f} %".format)):
        tells = more.groupby([table.case, names]).transform("nunique") > 1  # among the rows of one name
        names = names.mask(tells, names + ", " + more)
    return list(names)


def _as_dear(row: Row, table: pd.DataFrame, i: int) -> bool:
    """Whether a row computes what the uncached one does, on the same model."""
    e = row.experiment
    return e.method.plain and not e.compression and table.theoretical_speedup[i] <= 1


def _budget(row: Row, base: Plan) -> float:
    """The theoretical speed-up that the row's `target_cur` asks for; NaN for a row without."""
    target, layout = getattr(row.experiment.method, "target_cur", None), row.experiment.model.layout
    return macs(base, layout) / macs_at(target, base.steps, layout) if target else float("nan")


def _condition(table: pd.DataFrame, scale: str) -> str:
    """Which rows have the paper's numbers, and what is different about those."""
    same = "for rows of its own sampler, steps and CUR"
    if scale == "paper":
        return (
            f"{same}, at its guidance scale and, for its metrics, with its number of images: in brackets, the "
            "published value and the difference to it."
        )
    other = sorted(set(table.paper_cfg.dropna()) - set(table.cfg)) if "paper_cfg" in table else []
    return f"{same}" + (f"; its guidance scale is {_each(other, '{:g}')}." if other else ".")


def _each(values: Iterable, form: str = "{}") -> str:
    """The different values, in their order, of what cases may differ in."""
    return " or ".join(form.format(x) for x in dict.fromkeys(values) if pd.notna(x))


def _spread(table: pd.DataFrame) -> str:
    """How wide the quartiles of the speed-ups are."""
    half = (table.speedup_q3 - table.speedup_q1) / 2 / table.speedup
    return (
        f", quartiles of Real × within ±{100 * half.median():.0f} % in the median row, ±{100 * half.max():.0f} % in all"
    )


def _settings(row: Row) -> str:
    """The configuration's settings, but for those that have columns of their own."""
    given = [(k, v) for k, v in row.given if k not in ("target_cur", "steps")]
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in given)


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
    under = ""
    for i, (_, row) in enumerate(block.iterrows()):
        if isinstance(row.get("heading"), str) and row.heading != under:
            under = row.heading
            rows.append([f"*{under}*", *[""] * (len(heads) - 1)])
        cells = []
        for k in heads:
            text = formatted(k, row)
            found = row.get(f"best_{k}", row[k] == best[k] if k in best else False)
            is_best = not pd.isna(found) and bool(found)
            text = f"**{text}**" if i and is_best else text
            cells.append(text + beside[i].get(k, ""))
        rows.append(cells)
    return rows_of_table(heads.values(), rows)


def formatted(column: str, row: pd.Series) -> str:
    """A cell as tables print it, with half of its interval; the CUR of a rule with its spread over images, MACs with
    the budget that they miss."""
    more = {"CUR": _spread_of_cur, "theoretical_speedup": _missed}
    return _cell(column, row[column]) + (more[column](row) if column in more else _half_width(column, row))


def _half_width(column: str, row: pd.Series) -> str:
    """Half of the 95 % interval after a metric, unless it rounds to 0; the interval itself of a metric on a logarithmic
    scale, where it is not symmetric."""
    low, high = (row.get(f"{column}_{end}", float("nan")) for end in ("low", "high"))
    if pd.isna(low):
        return ""
    form = COLUMNS[column].format.format
    if column in METRICS and METRICS[column].logarithmic:
        ends = [form(x) for x in (low, high)]
        return f" ({'–'.join(x.removeprefix('0') for x in ends)})" if ends[1].strip("0.") else ""
    text = form((high - low) / 2)
    return " ±" + text.removeprefix("0") if text.strip("0.") else ""


def _spread_of_cur(row: pd.Series) -> str:
    """How much images differ in what they reuse, after the CUR of a rule."""
    sd = row.get("CUR_sd", float("nan"))
    return "" if pd.isna(sd) else f" (sd {sd:.1f})"


def _missed(row: pd.Series) -> str:
    """The budget after the theoretical speed-up of a row that is more than a tenth from it."""
    budget = row.get("budget", float("nan"))
    return f" (of {budget:.3g})" if abs(row.theoretical_speedup / budget - 1) > MISSED else ""


def _cell(column: str, value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value) or (column in ("CUR", "training_s", "training_images", "cache_MB") and value == 0):
        return "–"
    if value == float("inf"):
        return "∞"
    return COLUMNS[column].format.format(value)
