"""Figures: speed-up against quality, what the routers learned, the same seeds under every method."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from harmonica.evaluation.metrics import METRICS
from harmonica.experiments import Row
from harmonica.plan import COMPUTE, BranchLayout, Plan, Router, sigmoid
from paper_tables.style import COLOURS, save, small, style, styles


def named(table: pd.DataFrame) -> pd.Series:
    """Names that distinguish the rows of a block."""
    return (table.method + " " + table.settings).str.strip() if "settings" in table else table.method


def speedup(table: pd.DataFrame, metrics: tuple[str, ...], path: Path) -> None:
    """Metrics, with their intervals, over theoretical speed-up: a column per case, a marker per method."""
    cases = list(table.case.unique())
    figure, axes = plt.subplots(
        len(metrics),
        len(cases),
        figsize=(4 * len(cases) + 1.6, 3 * len(metrics)),
        squeeze=False,
        sharex="col",
        layout="constrained",
    )
    table = table.assign(name=named(table))
    look = styles(table.name)
    for column, case in enumerate(cases):
        block = table[table.case == case]
        for ax, metric in zip(axes[:, column], metrics, strict=True):
            to_uncached = METRICS[metric].needs == "uncached"
            for _, row in block.iterrows():
                if to_uncached and row[metric] <= 0:
                    continue  # the uncached row itself, which a logarithmic axis cannot show
                ax.scatter(row.theoretical_speedup, row[metric], s=60, label=row["name"], zorder=3, **look[row["name"]])
                if f"{metric}_low" in block:
                    ends = [row[metric] - row[f"{metric}_low"]], [row[f"{metric}_high"] - row[metric]]
                    ax.errorbar(row.theoretical_speedup, row[metric], ends, color="0.5", lw=1, capsize=2, zorder=2)
            if to_uncached:
                ax.set_yscale("log")
            else:
                ax.axhline(block.iloc[0][metric], color="0.6", lw=0.8, ls=":")
            ax.grid(color="0.92")
            ax.set_ylabel(f"{METRICS[metric].heading[:-2]} ({METRICS[metric].better} is better)")
        axes[0, column].set_title(f"{block['sampler'].iloc[0]}, case {case}")
        axes[-1, column].set_xlabel("theoretical speed-up (MACs)")
    known = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside right center", frameon=False)
    first = table.iloc[0]
    figure.suptitle(f"{first.model}: {first['samples']} images per point, features of {first.extractor}", fontsize=10)
    save(figure, path)


def routers(rows: list[Row], plans: dict[str, Plan], files: dict[str, Path], path: Path) -> None:
    """r (steps × branches) of every HarmoniCa router (or of the last row); a dot for each reuse of the plan."""
    own = [r for r in rows if r.experiment.name == "harmonica"] or rows[-1:]
    columns = min(4, len(own))
    lines = -(-len(own) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns + 0.8, 4.6 * lines), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(own) :]:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, own, strict=False):
        plan, router = plans[row.slug], files.get(row.slug)
        values = sigmoid(Router.load(router).logits) if router else (plan.actions == COMPUTE).astype(float)
        values[0] = 1
        picture = ax.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        at, branch = np.nonzero(plan.actions != COMPUTE)
        ax.scatter(branch, at, s=5, color="white", marker=".")
        what = "" if router else " (its plan)"
        ax.set_title(f"{row.experiment.name}{what}, case {row.case}: CUR {plan.cur:.1f} %", fontsize=10)
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


def grid(
    rows: list[Row], images: dict[str, np.ndarray], titles: list[str], asked: dict[str, list[str]], path: Path
) -> None:
    """The first images of equal seeds: one line per method (`titles`, one per row), one column block per case, below
    the captions, if any."""
    cases = list(dict.fromkeys(r.case for r in rows))
    methods = list(dict.fromkeys(titles))
    figure, axes = plt.subplots(
        len(methods), len(cases), figsize=(5.2 * len(cases) + 1.2, 0.66 * len(methods) + (2.4 if asked else 0.5)),
        squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_frame_on(False)
    for r, title in zip(rows, titles, strict=True):
        ax = axes[methods.index(title), cases.index(r.case)]
        own = images[r.slug]
        ax.imshow(np.concatenate(list(own), 1).squeeze(), cmap="gray", vmin=0, vmax=255)
        if r.experiment.name == "full" and r.case in asked:
            side = own.shape[2]
            ax.xaxis.tick_top()
            ax.set_xticks([side * (k + 0.5) for k in range(len(own))], [_cut(c) for c in asked[r.case]])
            ax.tick_params(axis="x", length=0, rotation=60, labelsize=7)
            plt.setp(ax.get_xticklabels(), ha="left", rotation_mode="anchor")
    for i, title in enumerate(methods):
        axes[i, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    for j, case in enumerate(cases):
        axes[0, j].set_title(f"case {case}", fontsize=10)
    save(figure, path)


def _cut(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def sweep(table: pd.DataFrame, published: pd.DataFrame, path: Path) -> None:
    """IS and FID against the real speed-up for Learning-to-Cache and HarmoniCa; the paper's points have panels of their
    own."""
    methods = ("Learning-to-Cache", "HarmoniCa")
    look, first = styles(methods), table.iloc[0]
    with plt.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.6), sharex="col", layout="constrained")
        for line, metric in zip(axes, ("IS", "FID"), strict=True):
            for ax, points in zip(line, (table, published), strict=True):
                for method in methods:
                    own = points[points.method.isin(["Full", method])].sort_values("speedup")
                    ax.plot(own.speedup, own[metric], label=method, lw=1.2, ms=5, **look[method])
                    if f"{metric}_low" in own:
                        ax.fill_between(own.speedup, own[f"{metric}_low"], own[f"{metric}_high"],
                                        color=look[method]["color"], alpha=0.15, lw=0)  # fmt: skip
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
        figure, axes = small()
        ax = axes[0, 0]
        for k, plan in enumerate(plans.values(), 1):
            values = np.array(plan.origin.notes["lambda_by_step"][1:])
            at = np.arange(1, plan.steps) / (plan.steps - 1)
            ax.plot(at, np.where(values > 0, values, np.nan), label=f"T = {plan.steps}", lw=1, ms=3, **style(k))
        ax.set_yscale("log")
        ax.set_xlabel("share of the trajectory (noisiest first)")
        ax.set_ylabel("λ")
        ax.grid(color="0.92")
        ax.legend(frameon=False, fontsize=7)
        save(figure, path)


def memory(table: pd.DataFrame, weights: float, path: Path) -> None:
    """The cache of every method for one image, and in percent of the weights (bytes)."""
    with plt.rc_context({"font.size": 8}):
        block = table[(table.case == table.case.iloc[0]) & (table.cache_MB > 0)]
        figure, axes = small(height=0.5 + 0.24 * max(4, len(block)))
        ax = axes[0, 0]
        bars = ax.barh(block.method, block.cache_MB, color=COLOURS[4])
        ax.bar_label(bars, [f"{100 * v * 1e6 / weights:.1f} %" for v in block.cache_MB], fontsize=7, padding=2)
        ax.margins(x=0.2)
        ax.invert_yaxis()
        ax.set_xlabel("cache, MB per image (and % of weights)")
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
        ax.set_xlabel("branch (attention, MLP, …)")
        ax.set_ylabel("step (noisiest first)")
    figure.colorbar(picture, ax=axes[0, -1], label="r = sigmoid(logit)")
    save(figure, path)
