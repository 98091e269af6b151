"""Table 5: quantisation and caching together."""

from harmonica.experiments import Experiment
from paper_tables.compressed import full_precision, interaction
from paper_tables.layout import compressed_and_cached
from paper_tables.published import SAMPLERS, lookup, of_guidance

MODELS = {"dit": "DiT-XL/2", "pixart": "PixArt-alpha"}


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 5, of 8 bits; beside a pocket row, that of 256×256."""
    on = e.compression
    if on is None or on.name != "efficientdm" or on.compressor.width != (8, 8) or e.name not in ("full", "harmonica"):
        return {}
    resolution = e.model.resolution if e.model.scale == "paper" else 256
    rows = {"full": "EfficientDM", "harmonica": "EfficientDM + HarmoniCa"}
    kind = MODELS.get(e.model.kind, "") if e.model.title != "PixArt-Σ" else ""
    name = rows[e.name] + (" (beta=4e-8)" if kind == "DiT-XL/2" and e.name == "harmonica" else "")
    sampler = SAMPLERS[e.protocol.sampler]
    where = {"model": kind, "resolution": resolution, "sampler": sampler, "steps": steps, "method": name}
    return of_guidance(lookup("table5_with_quantization", **where), e)


TABLE = compressed_and_cached(
    "Table 5",
    published,
    "its table 5 for DiT-XL/2 and PixArt-α at 256 pixels (Inception features, H800; there routers are not said to be "
    "trained on the quantised model)",
    notes=lambda table, measured: [*full_precision(), *interaction(table)],
)
