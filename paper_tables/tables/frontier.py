"""The frontier: what reuse, forecasts, fewer steps, a better solver and searched plans give at equal MACs, on every
shipped model."""

from dataclasses import replace

from paper_tables.layout import study

TABLE = replace(
    study("Frontier"),
    shown=("FID", "sFID", "FID_uncached", "PSNR", "PSNR_worst", "PSNR_converged", "FID_converged"),
    figure=("FID", "FID_uncached", "PSNR", "PSNR_converged"),
    settings=False,  # labels tell the rows apart
    joined=True,
)
