"""What each part of HarmoniCa does, one choice at a time: a block a study."""

from paper_tables.layout import Table

TABLE = Table(
    title="Ablations",
    metrics=("IS", "FID", "cleanfid_FID", "sFID", "precision", "recall", "PSNR"),
    shown=("IS", "FID", "sFID", "PSNR"),
    figure=("FID", "IS"),
    published=lambda e, steps, model: {},
    source="",
    settings=True,
)
