"""Images of a plan in chunks of consecutive seeds. Each chunk is a file, written atomically: an interrupted run resumes
with the missing chunks, and a longer run adds to a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonica.compression import Compression
from harmonica.models import get_model
from harmonica.plan import Plan
from harmonica.plan.costs import images_that_fit, weight_bytes
from harmonica.utils import SAMPLING, UserError, digest, source_hash
from harmonica.utils.arrays import Form, read_npz, write_npz
from harmonica.utils.precision import itemsize_of

if TYPE_CHECKING:
    from harmonica.execution import Policy

SOURCES = (*SAMPLING, "models/loading.py", "evaluation/generate.py", "utils/arrays.py")
COMPRESSED = tuple(f"compression/{name}.py" for name in ("assemble", "build", "linear", "numerics"))  # what runs
COMPILED = ("runtimes/compiled_branches.py", "runtimes/onednn.py")
Extract = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # of images and labels, see `evaluate.extractor`
Parts = tuple[Any, Callable]  # backbone and decoder
PolicyOf = Callable[[Plan], "Policy"]
CPU_BATCH, GPU_BATCH = 25, 64  # images per forward pass; on a GPU, if as many fit


def folder_name(
    plan: Plan,
    stem: str,
    precision: str = "float32",
    seed: int = 0,
    compression: Compression | None = None,
    compiled: bool = False,
) -> str:
    """The folder of a plan's images: its name, and a digest of all that affects pixels, up to the rounding that differs
    between GPUs and between batch sizes."""
    from harmonica.utils.devices import default_device

    p, model = plan.protocol, get_model(plan.protocol.model)
    captions = model.captions.hash if model.captions else ""
    about = [p.model, model.fingerprint, captions, p.sampler, p.cfg, seed, p.prior_noise]
    about += [precision, default_device().type]
    about += [] if plan.weights is None else [plan.weights.tolist()]
    about += [plan.rule.to_json()] if plan.rule else []
    if compression:
        about += [compression.checksum, source_hash(*COMPRESSED)]
    about += ["compiled", source_hash(*COMPILED)] if compiled else []
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
    extract: Extract | None = None,
    keep: int | None = None,
    seed: int = 0,
    policy: PolicyOf | None = None,
) -> list[Path]:
    """Generate the missing chunks of images first … first+count−1; returns all their files.

    `parts` (backbone, decoder) are loaded if not given; `progress` is called with each number of newly finished images.
    `policy` makes what executes a plan, by default `policy_of`, branch by branch (`CompiledBranches.policy`, for one).
    Rows that are compared take one `seed`: image k then has the same noise and label in each. A chunk file has images
    uint8 (n, H, W, C), labels (n,) and the index of the first; under a rule also `skipped` uint8 (n, halves, steps),
    what each image did. With `extract`, features are stored beside it, and images from the index `keep` on only have
    features. Raises UserError for sizes below 1, images to drop without features, or a plan that does not fit the
    model.
    """
    if min(count, chunk, batch) < 1 or first < 0:
        raise UserError(f"cannot generate {count} images from {first} in chunks of {chunk} and batches of {batch}")
    if keep is not None and extract is None:
        raise UserError("images can only be dropped after their features: pass a feature network")
    files: list[Path] = []
    with ThreadPoolExecutor(1) as writer:  # a chunk is written while the next is generated; at most one waits
        writing: Future | None = None
        for start in range(first, first + count, chunk):
            size = min(chunk, first + count - start)
            files.append(folder / f"{start:06d}-{start + size - 1:06d}.npz")
            kept = keep is None or start < keep
            if (not kept or _complete(files[-1], start, size)) and (
                extract is None or _measured(files[-1], start, size)
            ):
                progress(size)
                continue
            parts = parts or load_parts(plan.protocol.model)
            batches = [
                _batch(plan, parts, seed, at, min(batch, start + size - at), progress, policy)
                for at in range(start, start + size, batch)
            ]
            images, labels, skipped = (np.concatenate(x) for x in zip(*batches, strict=True))
            about = {"labels": labels, "first": np.array(start)} | ({"skipped": skipped} if plan.rule else {})
            if extract:
                write_npz(features_file(files[-1]), extract(images, labels) | about)
            if writing:
                writing.result()
            if kept:
                writing = writer.submit(write_npz, files[-1], about | {"images": images}, compressed=False)
        if writing:
            writing.result()
    return files


def features_file(chunk: Path) -> Path:
    """Where the features of a chunk's images are stored."""
    return chunk.with_suffix(".features.npz")


def load_parts(
    name: str, precision: str = "float32", memory: float | None = None, compression: Compression | None = None
) -> Parts:
    """Backbone, in a precision and maybe compressed, and decoder of a model; decoding takes what it leaves of `memory`
    bytes."""
    from harmonica.models.loading import load_backbone, load_decoder

    model = get_model(name)
    left = None if memory is None else memory - weight_bytes(model.layout, itemsize_of(precision))
    backbone = load_backbone(model, precision)
    return compression.apply(backbone) if compression else backbone, load_decoder(model, left)


def batch_size(plan: Plan, requested: int | None, precision: str, memory: float | None) -> int:
    """Images per forward pass: those requested, or 25, if there is no limit of memory; else at most as many as fit
    beside the autoencoder. Raises UserError if not one does."""
    if memory is None:
        return requested or CPU_BATCH
    model, guided = get_model(plan.protocol.model), plan.protocol.cfg != 1.0
    memory -= model.autoencoder_bytes
    return images_that_fit(plan, model.layout, memory, itemsize_of(precision), guided, requested or GPU_BATCH)


def in_memory(plan: Plan, count: int, parts: Parts, batch: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images uint8 (n, H, W, C) and labels (n,), without files."""
    batches = [_batch(plan, parts, seed, at, min(batch, count - at)) for at in range(0, count, batch)]
    images, labels, _ = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _batch(
    plan: Plan,
    parts: Parts,
    seed: int,
    first: int,
    count: int,
    progress: Callable[[int], Any] = lambda n: None,
    made: PolicyOf | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels, and what each image skipped under a rule, uint8 (n, halves, steps)."""
    from harmonica.execution import Batch, Ruled, policy_of, run

    backbone, decode = parts
    start = Batch.of(backbone, seed, first, count)
    policy = made(plan) if made else policy_of(backbone, plan)
    images = run(backbone, plan, start, policy, decode).numpy()
    progress(count)
    skipped = np.zeros((count, 1, 0), np.uint8)
    if isinstance(policy, Ruled):
        skipped = policy.skipped.unflatten(0, (-1, count)).transpose(0, 1).numpy().astype(np.uint8)
    return images, start.labels.numpy(), skipped


_PLACE = {"labels": Form("iu", (1,)), "first": Form("iu", (0,))}
_SKIPPED = {"skipped": Form("u", (3,))}  # under a rule
_IMAGES = {"images": Form("u", (3, 4)), **_PLACE}
_FEATURES = (
    {k: Form("f", (2,)) for k in ("pooled", "spatial", "logits")}
    | dict.fromkeys(("extractor", "network"), Form("U", (0,)))
    | _PLACE
)
_SCORES = {"cosines": Form("f", (1,)), "clip": Form("U", (0,))}  # with captions


def _open(path: Path) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
    stored = read_npz(path, "a complete chunk of images", _IMAGES | _SKIPPED, optional=_SKIPPED)
    if any(len(stored[k]) != len(stored["labels"]) for k in ("images", "skipped") if k in stored):
        raise UserError(f"{path} is not a complete chunk of images: it has other numbers of images and labels")
    return stored["images"], stored["labels"], int(stored["first"]), stored.get("skipped")


def _open_features(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    optional = _SCORES | _SKIPPED
    stored = read_npz(path, "a complete chunk of features", _FEATURES | optional, optional=optional)
    labels, first = stored.pop("labels"), int(stored.pop("first"))
    if any(len(x) != len(labels) for x in stored.values() if x.ndim):
        raise UserError(f"{path} is not a complete chunk of features: it has other numbers of features and labels")
    return stored, labels, first


def _complete(path: Path, first: int, size: int) -> bool:
    """Whether this chunk exists and is complete."""
    try:
        images, _, start, _ = _open(path)
    except UserError:
        return False
    return start == first and len(images) == size


def _measured(path: Path, first: int, size: int) -> bool:
    """Whether the features of this chunk exist and are complete."""
    try:
        _, labels, start = _open_features(features_file(path))
    except UserError:
        return False
    return start == first and len(labels) == size


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive images: uint8 (n, H, W, C), or None if they were dropped; labels (n,); what `extract` stored of
    them, or None; what they skipped under a rule, uint8 (n, halves, steps), or None."""

    images: np.ndarray | None
    labels: np.ndarray
    features: dict[str, np.ndarray] | None
    skipped: np.ndarray | None = None


def chunks(files: Sequence[str | Path]) -> Iterator[Chunk]:
    """Every chunk, in the order of their seeds.

    Raises UserError if a chunk is damaged, missing or repeated.
    """
    expected = None
    for path in sorted(map(Path, files)):
        try:
            images = stored = skipped = None
            if features_file(path).exists():
                stored, labels, first = _open_features(features_file(path))
                skipped = stored.pop("skipped", None)
            if stored is None or path.exists():
                images, own, at, skipped = _open(path)
                if stored is not None and (at != first or not np.array_equal(own, labels)):
                    raise UserError(f"{path} and its features are not of the same images")
                labels, first = own, at
        except UserError as e:
            raise UserError(
                f"{e}; delete the manifest that names it and run again: only missing or damaged chunks are generated"
            ) from None
        if expected not in (None, first):
            raise UserError(f"{path} starts at image {first}, but the chunks before it end at {expected - 1}")
        expected = first + len(labels)
        yield Chunk(images, labels, stored, skipped)
    if expected is None:
        raise UserError("no images to read")


def count(files: Sequence[str | Path]) -> int:
    """The number of images in chunk files, from their names."""
    return sum(int(last) - int(first) + 1 for first, last in (Path(f).stem.split("-") for f in files))


def read(files: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, concatenated. Raises UserError as `chunks` does, and if images were dropped."""
    images, labels = zip(*((c.images, c.labels) for c in chunks(files)), strict=True)
    if any(x is None for x in images):
        raise UserError(f"the images of {files[0]} or a later chunk were dropped after their features")
    return np.concatenate(images), np.concatenate(labels)
