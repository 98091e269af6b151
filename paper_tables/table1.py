"""Table 1: class-conditional generation. Every row next to the uncached one of its case, and to the paper's."""

import statistics

import pandas as pd

from harmonica.methods import get_method
from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.suite import Row, uncached
from paper_tables.published import table1_row

PUBLISHED = ("IS", "FID", "sFID", "precision", "recall", "CUR", "speedup")
HIGHER, LOWER = ("IS", "precision", "recall", "PSNR"), ("FID", "sFID")
FORMATS = {
    "IS": "{:.3f}", "FID": "{:.3f}", "sFID": "{:.3f}", "precision": "{:.1f}", "recall": "{:.1f}", "PSNR": "{:.2f}",
    "CUR": "{:.2f}", "GMACs": "{:.4g}", "theoretical_speedup": "{:.2f}", "latency_s": "{:.4f}", "speedup": "{:.2f}",
    "cache_MB": "{:.3f}", "training_s": "{:.0f}", "training_images": "{:.0f}",
}  # fmt: skip
HEADS = {
    "method": "Method", "steps": "Steps", "IS": "IS ↑", "FID": "FID ↓", "sFID": "sFID ↓", "precision": "Prec. ↑",
    "recall": "Recall ↑", "PSNR": "PSNR ↑", "CUR": "CUR %", "GMACs": "GMACs", "theoretical_speedup": "Theory ×",
    "latency_s": "Latency s", "speedup": "Real ×", "cache_MB": "Cache MB", "training_s": "Training s",
    "training_images": "Images used", "paper_IS": "paper IS", "paper_FID": "paper FID", "paper_speedup": "paper ×",
}  # fmt: skip


def build(rows: list[Row], plans: dict[str, Plan], metrics: dict[str, dict], latency: dict) -> pd.DataFrame:
    """One row an experiment. GMACs and cache are for one image with both guidance halves; latency is for the batch."""
    out = []
    for r in rows:
        e, plan, model = r.experiment, plans[r.slug], get_model(r.experiment.model)
        base = uncached(rows, r.case)
        m, own, full = metrics[r.slug], latency["plans"][r.slug], latency["plans"][base.slug]
        halves = 1 if e.cfg == 1 else 2
        macs = plan.macs(model.shape)
        out.append({
            "model": model.title, "resolution": model.resolution, "sampler": e.sampler.upper(), "cfg": e.cfg,
            "case": r.case, "method": get_method(e.method).TITLE, "steps": plan.steps,
            **{k: m[k] for k in ("IS", "FID", "cleanfid_FID", "sFID", "precision", "recall", "PSNR")},
            "CUR": plan.cur, "GMACs": halves * macs / 1e9,
            "theoretical_speedup": plans[base.slug].macs(model.shape) / macs,
            "latency_s": own["latency_s"],
            "speedup": statistics.median(f / o for f, o in zip(full["rounds_s"], own["rounds_s"], strict=True)),
            "cache_MB": plan.cache_bytes(model.shape, guided=halves == 2) / 1e6,
            "training_s": plan.origin.cost.get("training_s", 0), "training_images": plan.origin.cost.get("images", 0),
            "agreement": m["agreement"], "samples": m["N"], "extractor": m["extractor"],
            **{f"paper_{k}": v for k, v in table1_row(e.method, plan.steps, model.resolution if model.scale == "paper"
               else 256).items() if k in PUBLISHED},
        })  # fmt: skip
    table = pd.DataFrame(out)
    paper = get_model(rows[0].experiment.model).scale == "paper"
    comparable = PUBLISHED if paper else ("CUR", "speedup")  # a pocket FID is not Inception's
    for k in comparable:
        if f"paper_{k}" in table:
            table[f"delta_{k}"] = table[k] - table[f"paper_{k}"]
    return table


SHORT = (
    "method",
    "steps",
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
    return _block(block, {k: HEADS[k] for k in SHORT})


def markdown(table: pd.DataFrame, latency: dict, scale: str) -> str:
    """A readable table a case; the best value of each metric among the accelerated rows is bold."""
    first = table.iloc[0]
    extractor = f"**{first.extractor}**"
    if scale == "pocket":
        extractor += " (not Inception: they compare only with each other, at equal N)"
    parts = [
        f"# Table 1, {scale} scale",
        f"{first['samples']} images a row, guidance scale {first.cfg:g}. FID, sFID, IS, precision and recall are in "
        f"the features of {extractor}. PSNR is to the uncached image of the same seed. Latency: a batch of "
        f"{latency['batch']} from noise to latents on {latency['device']} ({latency['threads']} threads), median of "
        f"{latency['rounds']} interleaved rounds. GMACs and cache: one image, both guidance halves. Theory × and "
        "Real × are against the case's uncached row. The paper's columns are its table 1 for DiT-XL/2 (Inception "
        "features, H800), where it has the row"
        + (": in brackets, the published value and the difference to it." if scale == "paper" else "."),
    ]
    for case, block in table.groupby("case", sort=False):
        parts.append(f"## {block.model.iloc[0]}, {block.resolution.iloc[0]}×{block.resolution.iloc[0]}, "
                     f"{block['sampler'].iloc[0]}, case {case}")  # fmt: skip
        heads = {k: v for k, v in HEADS.items() if k in block and not block[k].isna().all()}
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


def _block(block: pd.DataFrame, heads: dict[str, str], published: bool = False) -> str:
    rivals = block.iloc[1:] if len(block) > 1 else block
    best = {k: rivals[k].max() for k in HIGHER} | {k: rivals[k].min() for k in LOWER}
    lines = ["| " + " | ".join(heads.values()) + " |", "|" + "---|" * len(heads)]
    beside = _beside(block, heads) if published else [{}] * len(block)
    for i, (_, row) in enumerate(block.iterrows()):
        cells = []
        for k in heads:
            text = _cell(k, row[k])
            text = f"**{text}**" if i and k in best and row[k] == best[k] else text
            cells.append(text + beside[i].get(k, ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: str, value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value) or (column in ("CUR", "training_s", "training_images", "cache_MB") and value == 0):
        return "–"
    if value == float("inf"):
        return "∞"
    return FORMATS.get(column, "{:g}").format(value)
