"""Transfer: HarmoniCa's plans under samplers and step counts they were not trained for."""

from paper_tables.layout import Table

TABLE = Table(
    title="Transfer",
    metrics=("CLIP", "FID", "cleanfid_FID", "sFID", "FID_uncached", "sFID_uncached", "PSNR"),
    shown=("CLIP", "FID", "sFID", "FID_uncached", "PSNR"),
    figure=("FID", "FID_uncached", "PSNR"),
)
