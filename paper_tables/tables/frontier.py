"""The frontier: what reuse, forecasts, rules, fewer steps, a better solver and searched plans give at equal MACs, on
every shipped model."""

from dataclasses import replace

import pandas as pd

from paper_tables.layout import rows_of_table, study
from paper_tables.measured import Measured
from paper_tables.published import table as published


def notes(table: pd.DataFrame, measured: Measured) -> list[str]:
    """Which rows miss their budget, and figures of the methods' own papers, each with the FID of the uncached row
    beside it there."""
    rows = published("frontier")
    heads = {"model": "Model", "method": "Method", "setting": "Setting", "macs_speedup": "MACs ×", "FID": "FID",
             "sFID": "sFID", "base_FID": "uncached FID there", "paper": "Paper", "read": "Read in"}  # fmt: skip
    spread = "; ".join(
        f"{method} {setting} has FID {' and '.join(f'{fid:.2f}' for fid in sorted(own.FID))}"
        for (method, setting), own in rows.groupby(["method", "setting"], sort=False)
        if own.paper.nunique() > 1
    )
    cells = [["" if pd.isna(row[k]) else str(row[k]) for k in heads] for _, row in rows.iterrows()]
    return [
        "Numbers of steps are whole, so that some rows miss the budget of their case: those that are more than a tenth "
        "from it have it behind their Theory ×.",
        "Published at the paper scale (50 steps of DDIM for DiT-XL/2, 20 of DPM-Solver++ for PixArt-α, 256×256). One "
        f"row differs between papers by more than methods do within one ({spread}): compare a figure with the uncached "
        "FID of its own paper only. No figures for a U-ViT were found. What is second hand was not read in the paper "
        "itself.",
        rows_of_table(heads.values(), cells),
    ]


TABLE = replace(
    study("Frontier"),
    shown=("FID", "FID_uncached", "PSNR", "PSNR_worst", "PSNR_converged", "FID_converged"),
    figure=("FID", "FID_uncached", "PSNR", "PSNR_converged"),
    settings=False,  # labels tell the rows apart
    joined=True,
    budgets=True,
    notes=notes,
)
