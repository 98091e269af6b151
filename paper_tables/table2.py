"""Table 2: text-to-image, PixArt on captions of MS-COCO."""

from harmonica.experiment import Experiment
from harmonica.models import Model
from paper_tables.layout import SAMPLERS, Table
from paper_tables.published import lookup

NAMES = {"fora": "FORA", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int, model: Model) -> dict:
    """The row of the paper's table 2 for PixArt-α; beside a pocket row, that of 256×256. It has none of PixArt-Σ."""
    name, resolution = (
        ("PixArt-alpha", 256) if model.scale == "pocket" else (model.name.rsplit("-", 1)[0], model.resolution)
    )
    plain = e.method in ("full", "fewer_steps")
    return lookup(
        "table2_text_to_image", model=name.replace("pixart", "PixArt"), sampler=SAMPLERS[e.sampler], steps=steps,
        method=SAMPLERS[e.sampler] if plain else NAMES.get(e.method), resolution=resolution,
    )  # fmt: skip


TABLE = Table(
    title="Table 2",
    metrics=("CLIP", "FID", "cleanfid_FID", "sFID", "PSNR"),
    shown=("CLIP", "FID", "sFID", "PSNR"),
    figure=("FID", "CLIP"),
    published=published,
    source="its table 2 for PixArt-α (Inception features of COCO, its own CLIP model, H800)",
)
