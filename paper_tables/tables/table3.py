"""Table 3: caching on a model with long skips, U-ViT on ImageNet."""

from harmonica.experiments import Experiment
from paper_tables.layout import Table
from paper_tables.published import lookup

NAMES = {"faster_diffusion": "Faster Diffusion", "deepcache": "DeepCache", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 3 for U-ViT-H/2 256 at 20 steps, also beside a pocket row."""
    return lookup("table3_uvit_caching", method=NAMES.get(e.name), steps=steps)


TABLE = Table(
    title="Table 3",
    metrics=(
        "IS",
        "FID",
        "cleanfid_FID",
        "sFID",
        "FID_uncached",
        "sFID_uncached",
        "precision",
        "recall",
        "PSNR",
        "agreement",
    ),
    shown=("IS", "FID", "sFID", "FID_uncached", "precision", "recall", "PSNR"),
    figure=("FID", "FID_uncached", "IS"),
    published=published,
    source="its table 3 for U-ViT-H/2 (Inception features, DPM-Solver; the settings of the peers are not given there)",
)
