"""Table 1: class-conditional generation, DiT on ImageNet."""

from harmonica.experiments import Experiment
from paper_tables.layout import class_conditional
from paper_tables.published import of_case

NAMES = {"full": "DDIM", "fewer_steps": "DDIM", "learning_to_cache": "Learning-to-Cache", "harmonica": "HarmoniCa"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 1 for DiT-XL/2; beside a pocket row, that of 256×256."""
    if e.model.kind != "dit":
        return {}
    resolution = e.model.resolution if e.model.scale == "paper" else 256
    return of_case("table1_class_conditional", e, steps, NAMES.get(e.name), resolution)


TABLE = class_conditional(
    "Table 1",
    published,
    "its table 1 for DiT-XL/2 (Inception features, H800)",
)
