"""Checkpoints of a training, stored beside the plan file it will write.

The soft cache that SDT keeps between rounds is most of one, so every process writes the caches of its own images in
files of their own, named by the images; any number of processes with any parts reads them back.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from harmonica.models import training_images
from harmonica.training import distributed
from harmonica.training.settings import SOURCES, Recipe
from harmonica.utils import UserError, digest, source_hash
from harmonica.utils.torch_files import load_torch, save_torch

STATE = {"round", "loss", "kept", "spent_s", "logits", "search", "generator", "pieces"}
Caches = tuple[Sequence[tuple[int, int]], list[dict[int, Tensor]]]  # (first, stop) of every part, {branch: (h·n, N, D)}


def identity(task, recipe: Recipe) -> str:
    """Hash of all that the result depends on: a training resumes only if the same one is requested."""
    settings = {k: v for k, v in task.origin.settings.items() if k not in ("checkpointing", "off_target")}
    p = task.protocol
    about = [p.model, p.sampler, p.steps, p.cfg, task.origin.method, task.precision]
    about += [task.compression.checksum] if task.compression else []
    about.append(training_images.fingerprint(task.model))
    return digest([about, settings, asdict(recipe), task.seed, task.model.fingerprint, source_hash(*SOURCES)])


def _file(plan_file: Path, identity: str, part: str = "") -> Path:
    return plan_file.with_name(f".{plan_file.stem}-{identity}{part}.checkpoint")


def load(plan_file: Path | None, identity: str) -> dict | None:
    """The state of an interrupted training, or None."""
    path = plan_file and _file(plan_file, identity)
    if path is None or not path.is_file():
        return None
    state = _read(path)
    if state is not None and not (isinstance(state, dict) and STATE <= set(state)):
        print(f"the checkpoint {path} is incomplete: starting from scratch", file=sys.stderr)
        return None
    return state


def _read(path: Path) -> dict | None:
    try:
        return load_torch(path, mmap=True)
    except UserError as e:
        print(f"the checkpoint cannot be read ({e}): starting from scratch", file=sys.stderr)
        return None


def load_caches(plan_file: Path, identity: str, state: dict, caches: Caches, device) -> bool:
    """Fill this process's soft caches from the pieces of a checkpoint; False if one is missing or damaged."""
    found = []
    for first, stop in state["pieces"]:
        path = _file(plan_file, identity, _piece(state["round"], first, stop))
        piece = _read(path) if path.is_file() else None
        if piece is None:
            return False
        found.append((first, stop, piece))
    for (first, stop), cache in zip(*caches, strict=True):
        cache.clear()
        for branch in found[0][2] if found else ():
            own = [
                piece[branch].unflatten(0, (-1, b - a))[:, max(first - a, 0) : max(stop - a, 0)]
                for a, b, piece in found
                if a < stop and first < b
            ]
            cache[int(branch)] = torch.cat(own, 1).flatten(0, 1).to(device)
    return True


def save(plan_file: Path, identity: str, state: dict, caches: Caches) -> None:
    """Write the state of a training, atomically; called by all processes. Older pieces of caches are removed last."""
    for (first, stop), cache in zip(*caches, strict=True):
        if cache:
            path = _file(plan_file, identity, _piece(state["round"], first, stop))
            save_torch(path, {str(i): x for i, x in cache.items()})
    pieces = distributed.gathered([list(own) for own, cache in zip(*caches, strict=True) if cache])
    if distributed.rank() == 0:
        save_torch(_file(plan_file, identity), state | {"pieces": pieces})
        keep = _piece(state["round"], 0, 0).rsplit(".", 1)[0]
        for path in _found(plan_file, f"{identity}.round*"):
            if f"{keep}." not in path.name:
                path.unlink(missing_ok=True)
    distributed.barrier()


def _piece(round_: int, first: int, stop: int) -> str:
    return f".round{round_}.{first}-{stop}"


def remove(plan_file: Path) -> None:
    """Remove the checkpoints of a training whose plan has been written, and none of a plan whose name only begins as
    its own does."""
    for end in ("", ".round*"):
        for path in _found(plan_file, "[0-9a-f]" * 12 + end):
            path.unlink(missing_ok=True)


def _found(plan_file: Path, pattern: str) -> Iterator[Path]:
    """The checkpoints beside a plan file whose identity and part fit a pattern."""
    return plan_file.parent.glob(f".{glob.escape(plan_file.stem)}-{pattern}.checkpoint")
