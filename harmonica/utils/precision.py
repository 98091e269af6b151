"""Precision of the branches. Samplers, losses, logits and the metrics are float32 or better everywhere."""

import os

from harmonica.utils.errors import unknown

VARIABLE = "HARMONICA_PRECISION"  # set by the workflow for all its jobs
PRECISIONS = ("float32", "bfloat16", "float16")


def precision() -> str:
    """HARMONICA_PRECISION; by default float32. Raises UserError for an unknown one."""
    name = os.environ.get(VARIABLE) or "float32"
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return name
