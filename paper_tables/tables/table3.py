"""Table 3: caching on a model with long skips, U-ViT on ImageNet."""

from harmonica.experiments import Experiment
from paper_tables.layout import class_conditional
from paper_tables.published import of_case

NAMES = {"faster_diffusion": "Faster Diffusion", "deepcache": "DeepCache", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 3 for U-ViT-H/2 256 at 20 steps, also beside a pocket row."""
    if e.model.kind != "uvit":
        return {}
    return of_case("table3_uvit_caching", e, steps, NAMES.get(e.name), 256)


TABLE = class_conditional(
    "Table 3",
    published,
    "its table 3 for U-ViT-H/2 (Inception features, DPM-Solver; the settings of the peers are not given there)",
)
