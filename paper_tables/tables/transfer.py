"""Transfer: HarmoniCa's plans under samplers and numbers of steps that they were not trained for."""

from paper_tables.layout import Table

TABLE = Table(
    title="Transfer",
    metrics=("CLIP", "FID", "cleanfid_FID", "sFID", "PSNR"),
    shown=("CLIP", "FID", "sFID", "PSNR"),
    figure=("FID", "PSNR"),
    published=lambda e, steps: {},
    source="",
)
