"""Router training on several processes (`torchrun … -m harmonica plan …`): each takes its share of a round's images.

Every process generates the same global batch and keeps its own slice; gradients, losses and λ are averaged. So any
number of processes trains the router that one process would train with the same batch.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from harmonica.utils import UserError
from harmonica.utils.devices import default_device


def start() -> None:
    """Join the processes that torchrun started."""
    on_gpu = default_device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")


def stop() -> None:
    dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; rank 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_range(batch: int) -> tuple[int, int]:
    """(first, stop) of this process's images of a global batch. Raises UserError unless the world size divides it."""
    size, k = world(), rank()
    if batch % size:
        raise UserError(f"a batch of {batch} cannot be shared by {size} processes; set batch to a multiple of {size}")
    return k * batch // size, (k + 1) * batch // size


def mean(x: Tensor) -> Tensor:
    """The mean over all processes, in place; `x` is on the host."""
    if dist.is_initialized():
        shared = _shared(x)
        dist.all_reduce(shared)
        x.copy_(shared / world())
    return x


def agreed(decision: bool) -> bool:
    """Rank 0's decision, in all processes."""
    if not dist.is_initialized():
        return decision
    said = _shared(torch.tensor(int(decision)))
    dist.broadcast(said, 0)
    return bool(said)


def gathered(own: list) -> list:
    """The lists of all processes as one, by rank."""
    if not dist.is_initialized():
        return own
    lists: list[list] = [[] for _ in range(world())]
    dist.all_gather_object(lists, own)
    return [x for part in lists for x in part]


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def _shared(x: Tensor) -> Tensor:
    """`x` on the device whose memory the processes exchange."""
    return x.cuda() if dist.get_backend() == "nccl" else x.clone()
