"""Figures of a table: speed-up against quality, what the routers learned, the same seeds under every method."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from harmonica.plan import COMPUTE, Plan  # noqa: E402
from harmonica.provenance import write_whole  # noqa: E402
from harmonica.router import Router, sigmoid  # noqa: E402
from harmonica.suite import Row  # noqa: E402

MARKERS = "o^sDvP*Xh<>dp8"


def save(figure, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    plt.close(figure)
    write_whole(path, data.getvalue())


def speedup(table: pd.DataFrame, metrics: tuple[str, str], path: Path) -> None:
    """Two metrics against the theoretical speed-up: a column a case, a marker a method."""
    cases = list(table.case.unique())
    figure, axes = plt.subplots(
        2, len(cases), figsize=(4 * len(cases) + 1.6, 6), squeeze=False, sharex="col", layout="constrained"
    )
    titles = list(table.method.unique())
    for column, case in enumerate(cases):
        block = table[table.case == case]
        for ax, metric in zip(axes[:, column], metrics, strict=True):
            for _, row in block.iterrows():
                k = titles.index(row.method)
                ax.scatter(row.theoretical_speedup, row[metric], marker=MARKERS[k % len(MARKERS)], s=60,
                           color=plt.cm.tab10(k % 10), label=row.method, zorder=3)  # fmt: skip
            ax.axhline(block.iloc[0][metric], color="0.6", lw=0.8, ls=":")
            ax.grid(color="0.92")
            ax.set_ylabel(metric + (" (lower is better)" if metric == "FID" else " (higher is better)"))
        axes[0, column].set_title(f"{block['sampler'].iloc[0]}, case {case}")
        axes[1, column].set_xlabel("theoretical speed-up (MACs)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    first = table.iloc[0]
    figure.suptitle(f"{first.model}: {first['samples']} images a point, features of {first.extractor}", fontsize=10)
    save(figure, path)


def routers(rows: list[Row], plans: dict[str, Plan], files: dict[str, Path], path: Path) -> None:
    """r (steps × branches) of every HarmoniCa router (without one, of the last row); a dot where the plan reuses."""
    own = [r for r in rows if r.experiment.method == "harmonica"] or rows[-1:]
    figure, axes = plt.subplots(1, len(own), figsize=(4.2 * len(own) + 0.8, 4.6), squeeze=False, layout="constrained")
    for ax, row in zip(axes[0], own, strict=True):
        plan, router = plans[row.slug], files[row.slug].with_suffix(".router.safetensors")
        values = sigmoid(Router.load(router).logits) if router.is_file() else (plan.actions == COMPUTE).astype(float)
        values[0] = 1
        picture = ax.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        at, branch = np.nonzero(plan.actions != COMPUTE)
        ax.scatter(branch, at, s=5, color="white", marker=".")
        what = "" if router.is_file() else " (its plan)"
        ax.set_title(f"{row.experiment.method}{what}, case {row.case}: CUR {plan.cur:.1f} %", fontsize=10)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("branch (attention, MLP, …)")
        ax.set_ylabel("step (noisiest first)")
    figure.colorbar(picture, ax=axes[0, -1], label="r = sigmoid(logit); dots: reused")
    save(figure, path)


def grid(
    rows: list[Row], images: dict[str, np.ndarray], titles: dict[str, str], asked: dict[str, list[str]], path: Path
) -> None:
    """The first images of equal seeds: a line a method, a block of columns a case, under what was asked for if it was a
    caption."""
    cases = list(dict.fromkeys(r.case for r in rows))
    methods = list(dict.fromkeys(titles[r.slug] for r in rows))
    figure, axes = plt.subplots(
        len(methods), len(cases), figsize=(5.2 * len(cases) + 1.2, 0.66 * len(methods) + (2.4 if asked else 0.5)),
        squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_frame_on(False)
    for r in rows:
        ax = axes[methods.index(titles[r.slug]), cases.index(r.case)]
        own = images[r.slug]
        ax.imshow(np.concatenate(list(own), 1).squeeze(), cmap="gray", vmin=0, vmax=255)
        if r.experiment.method == "full" and r.case in asked:
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
