"""How the images of a row are divided among jobs."""


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
