"""Where models run: the GPU when there is one."""

import os
from functools import cache

import torch

from harmonica.utils.errors import UserError

VARIABLE = "HARMONICA_DEVICE"  # "cuda" or "cpu"; if it is not set, CUDA when it is available


@cache
def default_device() -> torch.device:
    """CUDA when it is available, else the CPU; HARMONICA_DEVICE decides if it is set.

    Raises UserError if it requests a GPU that torch does not find, or another device.
    """
    requested = os.environ.get(VARIABLE, "")
    if requested not in ("", "cpu", "cuda"):
        raise UserError(f"{VARIABLE} must be cpu or cuda, got {requested!r}")
    if requested == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{VARIABLE} is cuda, but torch finds no usable GPU: see `nvidia-smi` and torch's CUDA version")
    return torch.device(requested or ("cuda" if torch.cuda.is_available() else "cpu"))


def require_gpu(what: str) -> None:
    """Raise UserError unless there is a GPU, or the CPU was requested: full-size models take months on a CPU."""
    if default_device().type == "cpu" and os.environ.get(VARIABLE) != "cpu":
        raise UserError(
            f"{what} needs a GPU, and torch finds no usable one: see `nvidia-smi` and torch's CUDA version; "
            f"{VARIABLE}=cpu computes on the CPU all the same"
        )
