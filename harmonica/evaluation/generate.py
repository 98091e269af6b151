"""Images of a plan in chunks of consecutive seeds. Each chunk is a file, written atomically: an interrupted run resumes
with the missing chunks, and a longer run adds to a shorter one."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.utils import DAMAGED_NPZ, SAMPLING, UserError, digest, source_hash, write_atomic

SOURCES = (*SAMPLING, "models/loading.py", "evaluation/generate.py")
Parts = tuple[Any, Callable]  # backbone and decoder


def folder_name(plan: Plan, stem: str) -> str:
    """The folder of a plan's images: its name, and a digest of all that affects pixels."""
    p, model = plan.protocol, get_model(plan.protocol.model)
    captions = model.captions.hash if model.captions else ""
    about = [p.model, model.fingerprint, captions, p.sampler, p.cfg, plan.origin.seed, p.prior_noise]
    return f"{stem}-{digest([plan.actions.tolist(), *about, source_hash(*SOURCES)])}"


def generate(
    plan: Plan,
    folder: Path,
    first: int,
    count: int,
    chunk: int,
    batch: int,
    parts: Parts | None = None,
    progress: Callable[[int], Any] = lambda n: None,
) -> list[Path]:
    """Generate the missing chunks of images first … first+count−1; returns all their files.

    `parts` (backbone, decoder) are loaded if not given; `progress` is called with each number of newly finished images.
    The seed is the plan's. A chunk file has images uint8 (n, H, W, C), labels (n,) and the index of the first.
    Raises UserError for sizes below 1, or a plan that does not fit the model.
    """
    if min(count, chunk, batch) < 1 or first < 0:
        raise UserError(f"cannot generate {count} images from {first} in chunks of {chunk} and batches of {batch}")
    files: list[Path] = []
    with ThreadPoolExecutor(1) as writer:  # a chunk is written while the next is generated; at most one waits
        writing: Future | None = None
        for start in range(first, first + count, chunk):
            size = min(chunk, first + count - start)
            files.append(folder / f"{start:06d}-{start + size - 1:06d}.npz")
            if _complete(files[-1], start, size):
                progress(size)
                continue
            parts = parts or load_parts(plan.protocol.model)
            batches = [
                _batch(plan, parts, at, min(batch, start + size - at), progress)
                for at in range(start, start + size, batch)
            ]
            if writing:
                writing.result()
            writing = writer.submit(_write, files[-1], start, batches)
        if writing:
            writing.result()
    return files


def load_parts(name: str) -> Parts:
    """Backbone and decoder of a model."""
    from harmonica.models.loading import load_backbone, load_decoder

    model = get_model(name)
    return load_backbone(model), load_decoder(model)


def in_memory(plan: Plan, count: int, parts: Parts, batch: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images uint8 (n, H, W, C) and labels (n,), without files."""
    batches = [_batch(plan, parts, at, min(batch, count - at)) for at in range(0, count, batch)]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _batch(
    plan: Plan, parts: Parts, first: int, count: int, progress: Callable[[int], Any] = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    from harmonica.execution import Batch, run

    (backbone, decode), o = parts, plan.origin
    start = Batch.of(backbone, o.seed, first, count)
    images = run(backbone, plan, start, decode=decode).numpy()
    progress(count)
    return images, start.labels.numpy()


def _write(path: Path, first: int, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
    images, labels = (np.concatenate(x) for x in zip(*batches, strict=True))
    data = io.BytesIO()
    np.savez(data, images=images, labels=labels, first=first)
    write_atomic(path, data.getvalue())


def _open(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    with np.load(path, allow_pickle=False) as f:
        return f["images"], f["labels"], int(f["first"])


def _complete(path: Path, first: int, size: int) -> bool:
    """Whether this chunk exists and is complete."""
    try:
        images, labels, start = _open(path)
    except DAMAGED_NPZ:
        return False
    return start == first and len(images) == len(labels) == size


def chunks(files: Sequence[str | Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 (n, H, W, C) and labels (n,) of every chunk file, in the order of their seeds.

    Raises UserError if a chunk is damaged, missing or repeated.
    """
    expected = None
    for path in sorted(map(Path, files)):
        try:
            images, labels, first = _open(path)
        except DAMAGED_NPZ as e:
            raise UserError(
                f"{path} is not a complete chunk of images ({type(e).__name__}); delete the manifest that names it and "
                "run again: only missing or damaged chunks are generated"
            ) from e
        if expected not in (None, first):
            raise UserError(f"{path} starts at image {first}, but the chunks before it end at {expected - 1}")
        expected = first + len(images)
        yield images, labels
    if expected is None:
        raise UserError("no images to read")


def read(files: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, concatenated. Raises UserError as `chunks` does."""
    images, labels = zip(*chunks(files), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def read_manifests(paths: Sequence[str | Path]) -> dict[str, list[str]]:
    """Chunk files by experiment, from the manifests of all shards."""
    merged: dict[str, list[str]] = {}
    for path in paths:
        try:
            manifest = json.loads(Path(path).read_text())
            for name, files in manifest.items():
                merged.setdefault(name, []).extend(files)
        except (ValueError, AttributeError, TypeError) as e:
            raise UserError(f"{path} is not a manifest of images ({type(e).__name__})") from None
    return merged
