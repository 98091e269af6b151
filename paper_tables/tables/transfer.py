"""Transfer: HarmoniCa's plans under samplers and step counts they were not trained for."""

from paper_tables.layout import Table

TABLE = Table(
    title="Transfer",
    metrics=("CLIP", "FID", "cleanfid_FID", "sFID", "PSNR"),
    shown=("CLIP", "FID", "sFID", "PSNR"),
    figure=("FID", "PSNR"),
    published=lambda e, steps: {},
    source="",
)
