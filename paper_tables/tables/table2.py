"""Table 2: text-to-image, PixArt on captions of MS-COCO."""

from harmonica.experiments import Experiment
from paper_tables.layout import of_captions
from paper_tables.published import SAMPLERS, of_case

NAMES = {"fora": "FORA", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 2 for PixArt-α; beside a pocket row, that of 256×256. It has none of PixArt-Σ."""
    if e.model.title == "PixArt-Σ":
        return {}
    plain = e.name in ("full", "fewer_steps")
    method = SAMPLERS[e.protocol.sampler] if plain else NAMES.get(e.name)
    resolution = e.model.resolution if e.model.scale == "paper" else 256
    return of_case("table2_text_to_image", e, steps, method, resolution)


TABLE = of_captions(
    "Table 2",
    published=published,
    source="its table 2 for PixArt-α (Inception features of COCO, its own CLIP model, H800)",
)
