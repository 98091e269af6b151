"""Figures: speed-up against quality, what the routers learned, the same seeds under every method."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from harmonica.evaluation.distances import psnr
from harmonica.evaluation.metrics import METRICS
from harmonica.experiments import Row
from harmonica.methods import get_method, known_methods
from harmonica.models import get_model
from harmonica.plan import COMPUTE, BranchLayout, Plan, Router, sigmoid
from paper_tables.style import save, small, styles


def named(table: pd.DataFrame) -> pd.Series:
    """Names that distinguish the rows of a block."""
    return (table.method + " " + table.settings).str.strip() if "settings" in table else table.method


WIDE = 8  # the range, as a factor, from which an axis is logarithmic
AXES = {"theoretical_speedup": "theoretical speed-up (MACs)", "speedup": "real speed-up (measured time)"}


def speedup(table: pd.DataFrame, seeds: pd.DataFrame, metrics: tuple[str, ...], x: str, path: Path) -> None:
    """Metrics with their intervals over a speed-up `x`: a column per `panel` of the table, a marker per method.

    A method's points of a panel are joined, in full for what computes everything (fewer steps, a better solver), from
    the uncached row on if they have its sampler. Small marks are the training seeds of a row, from the table of
    `seeds`. Bars are 95 % intervals, of what the uncached row has, too, those of the paired difference to it; along a
    measured speed-up they are the quartiles over rounds.
    """
    table, seeds = table.assign(name=named(table)), seeds.assign(name=named(seeds))
    metrics = tuple(m for m in metrics if m in table)
    panels, look = list(table.panel.unique()), styles(table.name)
    figure, axes = plt.subplots(
        len(metrics), len(panels), figsize=(4.2 * len(panels) + 1.8, 2.9 * len(metrics)), squeeze=False, sharex="col",
        layout="constrained",
    )  # fmt: skip
    plain = {get_method(m).title for m in known_methods() if get_method(m).plain}
    for column, panel in enumerate(panels):
        block = table[table.panel == panel]
        every = seeds[seeds.case.isin(block.case)]
        for ax, metric in zip(axes[:, column], metrics, strict=True):
            _panel(ax, block, every, metric, x, look, plain)
        axes[0, column].set_title(panel, fontsize=10)
        axes[-1, column].set_xlabel(AXES[x])
    known = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    ordered = [name for name in look if name in known]
    figure.legend([known[n] for n in ordered], ordered, loc="outside right center", frameon=False)
    models, images, features = (" and ".join(map(str, table[k].unique())) for k in ("model", "samples", "extractor"))
    about = f"{models}: {images} images per point, features of {features}"
    bars = "bars: 95 % intervals, where the uncached row has a value those of the paired difference to it"
    notes = f"{bars}; small marks: training seeds; dotted line: uncached"
    wrapped = [textwrap.fill(line, round(11 * figure.get_figwidth())) for line in (about, notes)]
    figure.suptitle("\n".join(wrapped), fontsize=10)
    save(figure, path)


def _panel(
    ax, block: pd.DataFrame, every: pd.DataFrame, metric: str, x: str, look: dict[str, dict], plain: set[str]
) -> None:
    to_uncached, base = METRICS[metric].needs == "uncached", block.iloc[0]
    shown = block[block[metric].notna()]
    if to_uncached:  # that of the uncached row is 0, which a logarithmic axis cannot show
        shown = shown[shown[metric] > 1e-9]
    for name, own in shown.groupby("name", sort=False):
        own = own.drop_duplicates([x, metric]).sort_values(x)
        style, joined = look[str(name)], own
        if own.method.iloc[0] in plain and pd.notna(base[metric]) and not to_uncached:
            joined = _joined(block.iloc[:1], own, x)
        line = "-" if own.method.iloc[0] in plain else ":"
        ax.plot(joined[x], joined[metric], color=style["color"], lw=1.2, ls=line, zorder=1.5)
        ax.scatter(own[x], own[metric], s=52, label=name, zorder=3, **style)
        paired = f"d{metric}" if f"d{metric}_low" in own and own.method.iloc[0] != base.method else metric
        if f"{paired}_low" in own:
            ends = [own[paired] - own[f"{paired}_low"], own[f"{paired}_high"] - own[paired]]
            along = [(own[x] - own[f"{x}_q1"]).clip(0), (own[f"{x}_q3"] - own[x]).clip(0)] if f"{x}_q1" in own else None
            ax.errorbar(own[x], own[metric], ends, along, ls="none", color=style["color"], lw=1, capsize=2, zorder=2)
        each = every[every.name == name]
        if len(each) > len(own):
            ax.scatter(each[x], each[metric], s=9, alpha=0.7, zorder=2.5, **style)
    values = shown[metric]
    if values.empty:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "none in this case", transform=ax.transAxes, ha="center", color="0.5", fontsize=9)
    failed = METRICS[metric].better == "lower" and values.min() > 0 and values.max() > WIDE * values.min()
    if to_uncached or failed:  # rows that fail would press all others together
        ax.set_yscale("log")
    if not to_uncached and pd.notna(base[metric]):
        ax.axhline(base[metric], color="0.6", lw=0.8, ls=":")
    ax.grid(color="0.92")
    ax.set_ylabel(f"{METRICS[metric].heading[:-2]} ({METRICS[metric].better} is better)", fontsize=9)


def _joined(full: pd.DataFrame, own: pd.DataFrame, x: str) -> pd.DataFrame:
    """The points of a method's line: its own, from the uncached row on if they have the same sampler."""
    same = "sampler" not in own or set(own["sampler"]) == set(full["sampler"])
    return (pd.concat([full, own]) if same else own).sort_values(x)


def routers(
    lines: list[list[Row]], titles: list[str], plans: dict[str, Plan], files: dict[str, Path], path: Path
) -> None:
    """r (steps × branches) of every HarmoniCa router (or of the last line), of its first training seed, under its
    line's title; a dot for each reuse of the plan. The first step, which has nothing to reuse, is drawn as computed."""
    rows = [(line[0], title) for line, title in zip(lines, titles, strict=True)]
    own = [(r, title) for r, title in rows if r.experiment.name == "harmonica"] or rows[-1:]
    columns = min(4, len(own))
    height = -(-len(own) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.2 * columns + 0.8, 4.6 * height), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(own) :]:
        ax.set_axis_off()
    for ax, (row, name) in zip(axes.flat, own, strict=False):
        plan, router = plans[row.slug], files.get(row.slug)
        values = sigmoid(Router.load(router).logits) if router else (plan.actions == COMPUTE).astype(float)
        values[0] = 1
        picture = ax.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        at, branch = np.nonzero(plan.actions != COMPUTE)
        ax.scatter(branch, at, s=5, color="white", marker=".")
        what = "" if router else " (its plan)"
        seed = f", seed\N{NO-BREAK SPACE}{row.experiment.seed}" if router else ""
        title = f"{name}{what}, case {row.case}{seed}: CUR\N{NO-BREAK SPACE}{plan.cur:.1f}\N{NO-BREAK SPACE}%"
        ax.set_title(textwrap.fill(title, 52), fontsize=9)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        label_blocks(ax, row.experiment.model.layout)
        ax.set_ylabel("step (noisiest first)")
    figure.colorbar(picture, ax=axes[:, -1], label="r = sigmoid(logit); dots: reused")
    save(figure, path)


def label_blocks(ax, layout: BranchLayout) -> None:
    """The blocks of a model along the axis of its branches, and the kinds of their branches."""
    starts = [start for start, _ in layout.blocks]
    every = -(-len(starts) // 14)
    ax.set_xticks(starts[::every], [str(k) for k in range(0, len(starts), every)])
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="white", lw=0.3)
    first, stop = layout.blocks[0]
    ax.set_xlabel(f"block ({', '.join(layout.kinds[first:stop])} in each)")


IMAGES = 8  # of a row in the grid
GAP = 2  # pixels between its rows


def grid(
    lines: list[list[Row]], images: dict[str, tuple[np.ndarray, np.ndarray]], titles: list[str], path: Path
) -> None:
    """Images of equal seeds, cases below each other: per method (`titles`, one per line) the first images, how they
    differ from the uncached ones, and the worst of its first images beside the uncached image of that seed.

    `images` has uint8 (n, H, W, C) and labels (n,) of the first images of every row, by slug; the worst is that of the
    lowest PSNR among all n.
    """
    cases = list(dict.fromkeys(line[0].case for line in lines))
    counts = [sum(line[0].case == c for line in lines) for c in cases]
    models = {line[0].case: line[0].experiment.model for line in lines}
    captioned = {case: model.captions.read() if model.captions else [] for case, model in models.items()}
    heights = [0.62 * n + (2.3 if captioned[c] else 0.55) for n, c in zip(counts, cases, strict=True)]
    figure = plt.figure(figsize=(13.5, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(cases), 1, height_ratios=heights, squeeze=False)
    for part, case in zip(parts[:, 0], cases, strict=True):
        block = [(line, title) for line, title in zip(lines, titles, strict=True) if line[0].case == case]
        base = next(images[line[0].slug] for line, _ in block if line[0].experiment.name == "full")
        axes = part.subplots(1, 3, width_ratios=[IMAGES, IMAGES, 2])  # one scale
        _case(axes, [images[line[0].slug][0] for line, _ in block], base[0], [title for _, title in block])
        heads = (
            "first images", "difference to uncached: red brighter, blue darker\n(full colour: half of the range)",
            f"worst of {len(base[0])},\nuncached",
        )  # fmt: skip
        for ax, head in zip(axes, heads, strict=True):
            ax.set_title(head, fontsize=9)
        if captioned[case]:
            _captions(axes[0], [captioned[case][k] for k in base[1][:IMAGES]], base[0].shape[2])
        part.suptitle(f"case {case}", fontsize=10, x=0.01, ha="left")
    save(figure, path)


def _case(axes, rows: list[np.ndarray], base: np.ndarray, titles: list[str]) -> None:
    """The rows of a case, images (n, H, W, C) each, on its three axes: a picture each, since hundreds of axes take
    minutes to lay out."""
    white = np.full_like(base[:2], 255)
    gaps = [(own[:IMAGES].astype(np.float32) - base[:IMAGES]).mean(-1, keepdims=True) for own in rows]
    pairs = [white if own is base else _worst(own, base) for own in rows]
    axes[0].imshow(_stacked([own[:IMAGES] for own in rows], 255), cmap="gray", vmin=0, vmax=255)
    axes[1].imshow(_stacked(gaps, 0), cmap="RdBu_r", vmin=-128, vmax=128)
    axes[2].imshow(_stacked(pairs, 255), cmap="gray", vmin=0, vmax=255)
    for ax in axes:
        ax.set(xticks=[], yticks=[], frame_on=False, anchor="N")
    height = base.shape[1]
    axes[0].set_yticks([height / 2 - 0.5 + (height + GAP) * k for k in range(len(rows))], titles, fontsize=9)
    axes[0].tick_params(axis="y", length=0)


def _worst(own: np.ndarray, base: np.ndarray) -> np.ndarray:
    k = int(psnr(own, base).argmin())
    return np.stack([own[k], base[k]])


def _stacked(rows: list[np.ndarray], background: int) -> np.ndarray:
    """Rows of images (n, H, W, C) below each other, one picture (H', W', 3) or (H', W')."""
    strips = [np.concatenate(list(images), 1).squeeze() for images in rows]
    gap = ((0, GAP), (0, 0), (0, 0))[: strips[0].ndim]
    return np.concatenate([np.pad(strip, gap, constant_values=background) for strip in strips])


def _captions(ax, texts: list[str], side: int) -> None:
    """Captions above a strip of images of `side` pixels."""
    ax.set_title("")
    ax.xaxis.tick_top()
    ax.set_xticks([side * (k + 0.5) for k in range(len(texts))], [_cut(c) for c in texts])
    ax.tick_params(axis="x", length=0, rotation=50, labelsize=7)
    plt.setp(ax.get_xticklabels(), ha="left", rotation_mode="anchor")


def _cut(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def sweep(table: pd.DataFrame, seeds: pd.DataFrame, published: pd.DataFrame, path: Path) -> None:
    """IS and FID against the real speed-up, one line per method, from the uncached row on if it has its sampler; small
    marks are the training `seeds` of its rows. The paper's points have panels of their own."""
    methods = [m for m in dict.fromkeys(table.method) if m != "Full"]
    look, first = styles(methods), table.iloc[0]
    with plt.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.6), sharex="col", layout="constrained")
        for line, metric in zip(axes, ("IS", "FID"), strict=True):
            for ax, points in zip(line, (table, published), strict=True):
                for method in [m for m in methods if m in set(points.method)]:
                    own = _joined(points[points.method == "Full"], points[points.method == method], "speedup")
                    ax.plot(own.speedup, own[metric], label=method, lw=1.2, ms=5, **look[method])
                    if f"{metric}_low" in own:
                        ax.fill_between(own.speedup, own[f"{metric}_low"], own[f"{metric}_high"],
                                        color=look[method]["color"], alpha=0.15, lw=0)  # fmt: skip
                    each = seeds[seeds.method == method] if points is table and len(seeds) else own.iloc[:0]
                    ax.scatter(each.speedup, each[metric], s=4, alpha=0.7, **look[method])
                ax.grid(color="0.92")
                ax.set_ylabel(metric)
        axes[0, 0].set_title(f"{first.model}, {first.extractor}", fontsize=8)
        axes[0, 1].set_title(f"{published.model.iloc[0]}, the paper", fontsize=8)
        for ax in axes[-1]:
            ax.set_xlabel("real speed-up")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{first.steps} steps, {first['samples']} images per point", fontsize=8)
        save(figure, path)


def drift(errors: dict[str, list[float]], titles: dict[str, str], about: str, path: Path) -> None:
    """Mean squared error of x_t to the uncached latents over the steps, one line per method."""
    with plt.rc_context({"font.size": 8}):
        figure, axes = small(height=2.9)
        ax = axes[0, 0]
        look = styles(titles[name] for name in errors)
        for name, values in errors.items():
            shown = [v if v > 0 else float("nan") for v in values]
            ax.plot(range(1, len(values) + 1), shown, label=titles[name], lw=1, ms=3, **look[titles[name]])
        ax.set_yscale("log")
        ax.set_xlabel("step (noisiest first)")
        ax.set_ylabel("mean squared error of $x_t$")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="0.92")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
        figure.suptitle(about, fontsize=7)
        save(figure, path)


def lambdas(plans: dict[str, Plan], path: Path) -> None:
    """Last measured λ of every step, one line per plan, over the share of the trajectory."""
    with plt.rc_context({"font.size": 8}):
        figure, axes = small(height=2.9)
        ax = axes[0, 0]
        names = {slug: f"HarmoniCa, T = {p.steps}, CUR {p.cur:.0f} %" for slug, p in plans.items()}
        look = styles(names.values())
        for slug, plan in plans.items():
            values = np.array(plan.origin.notes["lambda_by_step"][1:])
            at = np.arange(1, plan.steps) / (plan.steps - 1)
            own = {**look[names[slug]], "color": plt.get_cmap("viridis")(0.9 * list(plans).index(slug) / len(plans))}
            ax.plot(at, np.where(values > 0, values, np.nan), label=names[slug], lw=1, ms=3, **own)
        ax.set_yscale("log")
        ax.set_xlabel("share of the trajectory (noisiest first)")
        ax.set_ylabel("λ")
        ax.grid(color="0.92")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=6)
        save(figure, path)


def memory(table: pd.DataFrame, weights: float, path: Path) -> None:
    """The cache of every method for one image, and in percent of the weights (bytes)."""
    with plt.rc_context({"font.size": 8}):
        block = table[(table.case == table.case.iloc[0]) & (table.cache_MB > 0)]
        figure, axes = small(height=0.5 + 0.24 * max(4, len(block)))
        ax = axes[0, 0]
        look = styles(block.method)
        bars = ax.barh(block.method, block.cache_MB, color=[look[m]["color"] for m in block.method])
        ax.bar_label(bars, [f"{100 * v * 1e6 / weights:.1f} %" for v in block.cache_MB], fontsize=7, padding=2)
        ax.margins(x=0.2)
        ax.invert_yaxis()
        ax.set_xlabel("cache, MB per image (% of weights)", fontsize=7)
        save(figure, path)


def released(routers: dict[str, Router], thresholds: dict[str, float], path: Path) -> None:
    """r of the routed steps of released routers."""
    figure, axes = plt.subplots(
        1, len(routers), figsize=(4.2 * len(routers) + 0.8, 4.2), squeeze=False, layout="constrained"
    )
    for ax, (name, router) in zip(axes[0], routers.items(), strict=True):
        picture = ax.imshow(
            sigmoid(router.logits), aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
        )
        plan = router.plan(thresholds[name])
        ax.set_title(f"{name}: CUR {plan.cur:.1f} % at τ {thresholds[name]:g}", fontsize=10)
        label_blocks(ax, get_model(router.protocol.model).layout)
        ax.set_ylabel("step (noisiest first)")
    figure.colorbar(picture, ax=axes[0, -1], label="r = sigmoid(logit)")
    save(figure, path)
