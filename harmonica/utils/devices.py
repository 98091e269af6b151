"""Where models run: the GPU when there is one."""

from functools import cache

import torch


@cache
def default_device() -> torch.device:
    """CUDA when it is available, else the CPU. On CUDA float32 products use TF32, as the official samplers do."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")
