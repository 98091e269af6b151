"""Router training on several processes (`torchrun … -m harmonica plan …`): each takes its share of a round's images.

Every process samples the same global batch and keeps its own slice; gradients, losses and λ are averaged. So any number
of processes trains the router that one process would train with the same batch.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from harmonica.utils import UserError


def start() -> None:
    """Join the processes that torchrun started."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; rank 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_share(*batch: Tensor) -> tuple[Tensor, ...]:
    """This process's slice of tensors (n, …). Raises UserError unless the world size divides n."""
    n, size, k = len(batch[0]), world(), rank()
    if n % size:
        raise UserError(f"a batch of {n} cannot be shared by {size} processes; set batch to a multiple of {size}")
    own = slice(k * n // size, (k + 1) * n // size)
    return tuple(x[own] for x in batch)


def mean(x: Tensor) -> Tensor:
    """The mean over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(x)
        x /= world()
    return x
