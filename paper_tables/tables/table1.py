"""Table 1: class-conditional generation, DiT on ImageNet."""

from harmonica.experiments import Experiment
from paper_tables.layout import Table
from paper_tables.published import lookup

NAMES = {"full": "DDIM", "fewer_steps": "DDIM", "learning_to_cache": "Learning-to-Cache", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 1 for DiT-XL/2; beside a pocket row, that of 256×256."""
    resolution = e.model.resolution if e.model.scale == "paper" else 256
    return lookup("table1_class_conditional", method=NAMES.get(e.name), steps=steps, resolution=resolution)


TABLE = Table(
    title="Table 1",
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
    source="its table 1 for DiT-XL/2 (Inception features, H800)",
)
