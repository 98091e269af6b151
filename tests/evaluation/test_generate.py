import threading

import numpy as np
import pytest
from conftest import protocol

from harmonica.evaluation import generate
from harmonica.execution.seeds import noise_and_labels
from harmonica.models import MODELS
from harmonica.plan import all_compute
from harmonica.utils.errors import UserError

BRANCHES = len(MODELS["pocket-dit"].layout.branches)


def images_of(folder, images=6, chunk=4, batch=4, first=0):
    return generate.generate(all_compute(protocol(2), BRANCHES), folder, first, images, chunk, batch)


def test_image_k_does_not_depend_on_shard_or_batch(tmp_path):
    complete, labels = generate.read(images_of(tmp_path / "a", images=8, chunk=8, batch=8))
    parts = images_of(tmp_path / "b", images=5, chunk=3, batch=2) + images_of(
        tmp_path / "b", images=3, chunk=3, batch=1, first=5
    )
    again, labels_again = generate.read(parts)
    assert (labels == labels_again).all()
    assert (
        np.abs(complete.astype(int) - again).max() <= 1
    )  # products are blocked by batch size: the last bit may differ
    assert len({image.tobytes() for image in complete}) == 8


def test_every_seed_and_every_image_is_its_own():
    noise = [noise_and_labels(seed, first, 1, (4, 2, 2), 10)[0] for seed in (0, 1, 2) for first in (0, 1, 7)]
    assert len({x.numpy().tobytes() for x in noise}) == 9


def test_a_stopped_run_resumes(tmp_path, monkeypatch):
    calls, real = [], generate._batch

    def breaks(plan, parts, first, count, progress=lambda n: None):
        calls.append(first)
        if first == 4:
            raise KeyboardInterrupt
        return real(plan, parts, first, count, progress)

    monkeypatch.setattr(generate, "_batch", breaks)
    with pytest.raises(KeyboardInterrupt):
        images_of(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["000000-000003.npz"]
    monkeypatch.setattr(generate, "_batch", real)
    kept = (tmp_path / "000000-000003.npz").stat().st_mtime_ns
    images, _ = generate.read(images_of(tmp_path))
    assert len(images) == 6 and (tmp_path / "000000-000003.npz").stat().st_mtime_ns == kept


def test_a_chunk_is_written_while_the_next_is_generated(tmp_path, monkeypatch):
    next_began, met = threading.Event(), []
    generating, writing = generate._batch, generate._write

    def generates(plan, parts, first, count, progress=lambda n: None):
        if first == 4:
            next_began.set()
        return generating(plan, parts, first, count, progress)

    def writes(path, first, batches):
        if first == 0:
            met.append(next_began.wait(60))
        writing(path, first, batches)

    monkeypatch.setattr(generate, "_batch", generates)
    monkeypatch.setattr(generate, "_write", writes)
    images, _ = generate.read(images_of(tmp_path))
    assert met == [True] and len(images) == 6


def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch):
    import errno
    from pathlib import Path

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        images_of(tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_missing_and_doubled_chunks(tmp_path):
    files = images_of(tmp_path, images=12)
    with pytest.raises(UserError, match="starts at image 8, but"):
        generate.read([files[0], files[2]])
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(UserError, match="not a complete chunk"):
        generate.read(files)


def test_the_folder_name_depends_on_everything_that_decides_the_pixels():
    plan = all_compute(protocol(2), BRANCHES)
    names = {generate.folder_name(p, "x") for p in (plan, plan.with_origin(seed=1), plan.with_protocol(cfg=2.0))}
    assert len(names) == 3 and generate.folder_name(plan.with_origin(method="other"), "x") in names
