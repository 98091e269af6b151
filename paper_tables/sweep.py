"""Learning-to-Cache and HarmoniCa from little to much reuse, at one number of steps (the paper's figure of IS and FID
against speed-up)."""

from paper_tables.layout import Table

TABLE = Table(
    title="Sweep",
    metrics=("IS", "FID", "cleanfid_FID", "sFID", "precision", "recall", "PSNR"),
    shown=("IS", "FID", "sFID", "PSNR"),
    figure=("FID", "IS"),
    published=lambda e, steps, model: {},
    source="",
    settings=True,
)
