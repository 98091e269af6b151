"""Shards cover every image once and meet at chunk borders."""

from hypothesis import given
from hypothesis import strategies as st

from harmonica.evaluation import generate
from harmonica.experiments import Experiment, sharding


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


@given(st.floats(0, 1e6), st.floats(0.1, 100))
def test_jobs_are_as_long_as_requested(seconds, minutes):
    count = sharding.shards_of(seconds, minutes)
    assert seconds / count <= 60 * minutes * (1 + 1e-9)
    assert count == 1 or seconds / (count - 1) > 60 * minutes * (1 - 1e-9)


@given(st.floats(0, 1e6), st.integers(1, 16), st.integers(1, 64))
def test_gpus_of_a_training_divide_its_batch(seconds, most, batch):
    count = sharding.processes_of(seconds, 1.0, most, batch)
    assert count <= most and batch % count == 0
    assert seconds <= 3600 * count or 2 * count > most or batch % (2 * count)


def test_shards_write_the_files_of_one_job(tmp_path):
    """Equal to the byte, whatever the number of jobs."""
    plan = Experiment.of("pocket-dit", "ddim", 2, 1.5, "fora", {"interval": 2}).make()[0]
    for shards in (1, 3):
        for k in range(shards):
            first, count = sharding.shard_range(10, 2, shards, k)
            generate.generate(plan, tmp_path / str(shards), first, count, chunk=2, batch=2)
    one, three = ({p.name: p.read_bytes() for p in (tmp_path / str(n)).iterdir()} for n in (1, 3))
    assert one == three and len(one) == 5
