import threading

import numpy as np
import pytest
import torch
from conftest import origin

from harmonica import shards
from harmonica.errors import UserError
from harmonica.models import MODELS
from harmonica.plan import all_compute
from harmonica.samplers import DDIM, make_sampler
from harmonica.sampling import Guided, noise_and_labels, to_pixels

BRANCHES = len(MODELS["pocket-dit"].shape.branches)


def draw(folder, images=6, chunk=4, batch=4, first=0):
    return shards.draw(all_compute(origin(2), BRANCHES), folder, first, images, chunk, batch)


def test_image_k_is_the_same_whatever_the_shard_or_batch(tmp_path):
    whole, labels = shards.read(draw(tmp_path / "a", images=8, chunk=8, batch=8))
    parts = draw(tmp_path / "b", images=5, chunk=3, batch=2) + draw(tmp_path / "b", images=3, chunk=3, batch=1, first=5)
    again, labels_again = shards.read(parts)
    assert (labels == labels_again).all()
    assert np.abs(whole.astype(int) - again).max() <= 1  # products are blocked by batch size: the last bit may differ
    assert len({image.tobytes() for image in whole}) == 8


def test_every_seed_and_every_image_is_its_own():
    drawn = [noise_and_labels(seed, first, 1, (4, 2, 2), 10)[0] for seed in (0, 1, 2) for first in (0, 1, 7)]
    assert len({x.numpy().tobytes() for x in drawn}) == 9


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    calls, real = [], shards._draw_batch

    def breaks(plan, parts, first, count, progress=lambda n: None):
        calls.append(first)
        if first == 4:
            raise KeyboardInterrupt
        return real(plan, parts, first, count, progress)

    monkeypatch.setattr(shards, "_draw_batch", breaks)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["000000-000003.npz"]
    monkeypatch.setattr(shards, "_draw_batch", real)
    kept = (tmp_path / "000000-000003.npz").stat().st_mtime_ns
    images, _ = shards.read(draw(tmp_path))
    assert len(images) == 6 and (tmp_path / "000000-000003.npz").stat().st_mtime_ns == kept


def test_a_chunk_is_written_while_the_next_is_drawn(tmp_path, monkeypatch):
    next_began, met = threading.Event(), []
    drawing, writing = shards._draw_batch, shards._write

    def draws(plan, parts, first, count, progress=lambda n: None):
        if first == 4:
            next_began.set()
        return drawing(plan, parts, first, count, progress)

    def writes(path, first, drawn):
        if first == 0:
            met.append(next_began.wait(60))
        writing(path, first, drawn)

    monkeypatch.setattr(shards, "_draw_batch", draws)
    monkeypatch.setattr(shards, "_write", writes)
    images, _ = shards.read(draw(tmp_path))
    assert met == [True] and len(images) == 6


def test_no_space_leaves_nothing_half_written(tmp_path, monkeypatch):
    import errno
    from pathlib import Path

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_missing_and_doubled_chunks(tmp_path):
    files = draw(tmp_path, images=12)
    with pytest.raises(UserError, match="starts at image 8, but"):
        shards.read([files[0], files[2]])
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(UserError, match="not a whole chunk"):
        shards.read(files)


def test_samples_are_filed_by_all_that_decides_the_pixels():
    plan = all_compute(origin(2), BRANCHES)
    names = {shards.folder_name(p, "x") for p in (plan, plan.with_origin(seed=1), plan.with_origin(cfg=2.0))}
    assert len(names) == 3 and shards.folder_name(plan.with_origin(method="other"), "x") in names


def test_ddim_is_the_textbook_update():
    sampler = DDIM(4)
    assert sampler.timesteps == (999, 666, 333, 0)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x, eps = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2)
    x0 = (x - (1 - bar[666]) ** 0.5 * eps[:, :4]) / bar[666] ** 0.5
    torch.testing.assert_close(sampler.step(1, eps, x), bar[333] ** 0.5 * x0 + (1 - bar[333]) ** 0.5 * eps[:, :4])
    x0 = (x - (1 - bar[0]) ** 0.5 * eps[:, :4]) / bar[0] ** 0.5
    torch.testing.assert_close(sampler.step(3, eps, x), x0)


def test_samplers_by_name():
    with pytest.raises(UserError, match="unknown sampler 'dim'; did you mean 'ddim'"):
        make_sampler("dim", 10)
    with pytest.raises(UserError, match="at least 1 step"):
        make_sampler("ddim", 0)


def test_guidance_acts_on_three_channels(tiny):
    from harmonica.executor import Plain

    x, _ = noise_and_labels(0, 0, 2, tiny.latent_shape, 5)
    labels, null = torch.tensor([1, 2]), torch.tensor([5, 5])
    with torch.no_grad():
        cond, none = (Guided(tiny, y, 1.0, 3)(x, 500, Plain(tiny)) for y in (labels, null))
        out = Guided(tiny, labels, 4.0, 3)(x, 500, Plain(tiny))
    torch.testing.assert_close(out[:, :3], none[:, :3] + 4 * (cond - none)[:, :3], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out[:, 3:], cond[:, 3:], atol=1e-4, rtol=1e-4)


def test_pixels():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5)
    assert to_pixels(x).flatten().tolist() == [0, 0, 128, 255, 255]
