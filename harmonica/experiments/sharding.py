"""How work is divided among jobs, by its predicted cost on a reference device: jobs of about equal length, long
compared with their start-up. The division does not depend on the machine, nor results on the division."""

import math


def shards_of(seconds: float, minutes: float) -> int:
    """Jobs of at most `minutes` that this work makes; at least one."""
    return max(1, math.ceil(seconds / (60 * minutes)))


def processes_of(seconds: float, hours: float, most: int, batch: int) -> int:
    """GPUs that share a training: the smallest power of two with which it takes at most `hours`, or the largest up to
    `most` that divides its batch."""
    n = 1
    while seconds > 3600 * hours * n and 2 * n <= most and batch % (2 * n) == 0:
        n *= 2
    return n


def chunk_count(images: int, chunk: int) -> int:
    """Chunk files of `chunk` images each, the last one maybe smaller."""
    return -(-images // chunk)


def shard_count(images: int, chunk: int, shards: int) -> int:
    """Jobs that share the images: `shards`, or fewer if there are fewer chunks."""
    return min(shards, chunk_count(images, chunk))


def shard_range(images: int, chunk: int, shards: int, k: int) -> tuple[int, int]:
    """First image and number of images of shard `k`. Shards meet at chunk borders, so that a longer run keeps them."""
    chunks, count = chunk_count(images, chunk), shard_count(images, chunk, shards)
    first, end = (min(images, chunks * i // count * chunk) for i in (k, k + 1))
    return first, end - first
