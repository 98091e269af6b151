"""Table 4: caching beside quantisation and pruning, DiT on ImageNet."""

from harmonica.experiments import Experiment
from paper_tables.compressed import beside, full_precision
from paper_tables.layout import class_conditional
from paper_tables.published import SAMPLERS, lookup, of_guidance

NAMES = {"full": "DDIM", "harmonica": "HarmoniCa", "efficientdm": "EfficientDM", "ptq4dit": "PTQ4DiT",
         "diff_pruning": "Diff-Pruning"}  # fmt: skip


def published(e: Experiment, steps: int) -> dict:
    """The row of the paper's table 4 for DiT-XL/2 256; its quantised rows have 8 bits."""
    if (e.compression and e.name != "full") or e.model.kind != "dit" or (e.model.hub and e.model.resolution != 256):
        return {}
    on = e.compression and e.compression.compressor
    if on and on.width not in ((8, 8), (32, 32)):
        return {}
    name = NAMES.get(e.compression.name if e.compression else e.name)
    sampler = SAMPLERS[e.protocol.sampler]
    found = of_guidance(lookup("table4_pruning_quantization", method=name, steps=steps, sampler=sampler), e)
    return {**found, "speedup": found["speedup_H800"]} if "speedup_H800" in found else found


TABLE = class_conditional(
    "Table 4",
    published,
    "its table 4 for DiT-XL/2 256 (Inception features, H800)",
    notes=lambda table, measured: [*full_precision(), *beside("PTQ4DiT")],
)
