"""Images of one plan, drawn in chunks of consecutive seeds. Each chunk is a file, written whole: a run that was stopped
goes on where it was, and a longer run adds to a shorter one."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harmonica.errors import DAMAGED_NPZ, UserError
from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.provenance import SAMPLING_SOURCES, digest, source_hash, write_whole

SOURCES = (*SAMPLING_SOURCES, "harmonica/shards.py")


def folder_name(plan: Plan, stem: str) -> str:
    """A plan's samples lie under its name and a digest of all that decides the pixels."""
    o = plan.origin
    model = get_model(o.model)
    asked = model.captions.hash if model.captions else ""
    about = [o.model, model.fingerprint, asked, o.sampler, o.cfg, o.seed, o.prior_noise, source_hash(*SOURCES)]
    key = digest([plan.actions.tolist(), *about])
    return f"{stem}-{key}"


def draw(
    plan: Plan, folder: Path, first: int, count: int, chunk: int, batch: int, parts=None, progress=lambda n: None
) -> list[Path]:
    """Make the missing chunks of images first … first+count−1; returns the files of all of them.

    `parts` is (backbone, decoder), loaded when it is not given. Seeds count from the plan's own. A chunk file holds
    images uint8 (n, H, W, C), labels (n,) and the index of the first. Raises UserError when the plan does not fit.
    """
    if min(count, chunk, batch) < 1 or first < 0:
        raise UserError(f"cannot draw {count} images from {first} in chunks of {chunk} and batches of {batch}")
    files: list[Path] = []
    with ThreadPoolExecutor(1) as writer:  # a chunk is written while the next is drawn, and one at most waits
        writing: Future | None = None
        for start in range(first, first + count, chunk):
            size = min(chunk, first + count - start)
            files.append(folder / f"{start:06d}-{start + size - 1:06d}.npz")
            if _whole(files[-1], start, size):
                progress(size)
                continue
            parts = parts or load_parts(plan)
            drawn = [
                _draw_batch(plan, parts, at, min(batch, start + size - at), progress)
                for at in range(start, start + size, batch)
            ]
            if writing:
                writing.result()
            writing = writer.submit(_write, files[-1], start, drawn)
        if writing:
            writing.result()
    return files


def _write(path: Path, first: int, drawn: list[tuple[np.ndarray, np.ndarray]]) -> None:
    images, labels = (np.concatenate(x) for x in zip(*drawn, strict=True))
    data = io.BytesIO()
    np.savez(data, images=images, labels=labels, first=first)
    write_whole(path, data.getvalue())


def load_parts(plan: Plan):
    """Backbone and decoder of the plan's model."""
    model = get_model(plan.origin.model)
    return model.load_backbone(), model.load_decoder()


def draw_in_memory(plan: Plan, count: int, parts, batch: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images uint8 (n, H, W, C) and labels (n,) by (backbone, decoder), without files."""
    drawn = [_draw_batch(plan, parts, at, min(batch, count - at)) for at in range(0, count, batch)]
    images, labels = zip(*drawn, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _draw_batch(plan: Plan, parts, first: int, count: int, progress=lambda n: None) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from harmonica.executor import Planned
    from harmonica.samplers import make_sampler
    from harmonica.sampling import StepSeeds, begin, sample, to_pixels

    (backbone, decode), o = parts, plan.origin
    guided, noise, labels = begin(o, backbone, get_model(o.model).guided_channels(o.sampler), first, count)
    sampler, policy = make_sampler(o.sampler, o.steps), Planned(backbone, plan)
    latents = sample(guided, sampler, policy, noise, StepSeeds(o.seed, first, count))
    with torch.inference_mode():
        images = to_pixels(decode(latents)).cpu().numpy()
    progress(count)
    return images, labels.numpy()


def _open(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    with np.load(path, allow_pickle=False) as f:
        return f["images"], f["labels"], int(f["first"])


def _whole(path: Path, first: int, size: int) -> bool:
    """Whether this chunk is there and complete."""
    try:
        images, labels, start = _open(path)
    except DAMAGED_NPZ:
        return False
    return start == first and len(images) == len(labels) == size


def chunks(files: list[str | Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 (n, H, W, C) and labels (n,) of every chunk file, in the order of their seeds.

    Raises UserError for a chunk that is damaged, missing or drawn twice.
    """
    expected = None
    for path in sorted(map(Path, files)):
        try:
            images, labels, first = _open(path)
        except DAMAGED_NPZ as e:
            raise UserError(
                f"{path} is not a whole chunk of samples ({type(e).__name__}); delete the manifest that names it and "
                "run again: only what is missing or damaged is drawn"
            ) from e
        if expected not in (None, first):
            raise UserError(f"{path} starts at image {first}, but the chunks before it end at {expected - 1}")
        expected = first + len(images)
        yield images, labels
    if expected is None:
        raise UserError("no samples to read")


def read(files: list[str | Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all the chunks together. Raises UserError as `chunks` does."""
    images, labels = zip(*chunks(files), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def read_manifests(paths: list[str | Path]) -> dict[str, list[str]]:
    """Chunk files by experiment, from the manifests of all shards."""
    merged: dict[str, list[str]] = {}
    for path in paths:
        try:
            manifest = json.loads(Path(path).read_text())
            for name, files in manifest.items():
                merged.setdefault(name, []).extend(files)
        except (ValueError, AttributeError, TypeError) as e:
            raise UserError(f"{path} is not a manifest of samples ({type(e).__name__})") from None
    return merged
