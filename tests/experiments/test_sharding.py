"""Shards cover every image once and meet at chunk borders."""

from hypothesis import given
from hypothesis import strategies as st

from harmonica.experiments import sharding


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 40))
def test_shards_cover_every_image_once(images, chunk, shards):
    count = sharding.shard_count(images, chunk, shards)
    ranges = [sharding.shard_range(images, chunk, shards, k) for k in range(count)]
    assert 1 <= count <= shards and all(n > 0 for _, n in ranges)
    assert [i for first, n in ranges for i in range(first, first + n)] == list(range(images))
    assert all(first % chunk == 0 for first, _ in ranges)


@given(st.integers(1, 50), st.integers(1, 600), st.integers(1, 40), st.integers(1, 50))
def test_a_longer_run_has_the_chunks_of_a_shorter_one(chunks, chunk, shards, more):
    """Chunk files are named by their first and last image: those of whole chunks stay."""

    def files(images: int) -> set[tuple[int, int]]:
        spans = (
            sharding.shard_range(images, chunk, shards, k) for k in range(sharding.shard_count(images, chunk, shards))
        )
        return {(a, min(a + chunk, first + n)) for first, n in spans for a in range(first, first + n, chunk)}

    assert files(chunks * chunk) <= files((chunks + more) * chunk)
