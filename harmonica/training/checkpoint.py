"""Checkpoints of a training, stored beside the plan file it will write."""

import pickle
import sys
from pathlib import Path

import torch

from harmonica.training.settings import SOURCES, Recipe
from harmonica.utils import digest, source_hash
from harmonica.utils.torch_files import save_torch


def identity(task, recipe: Recipe) -> str:
    """Hash of everything but the number of rounds: a training resumes only if it is unchanged."""
    settings = {k: v for k, v in task.origin.settings.items() if k != "rounds"}
    p = task.protocol
    about = [p.model, p.sampler, p.steps, p.cfg, task.origin.method]
    return digest([about, settings, recipe.batch, recipe.lr, task.seed, task.model.fingerprint, source_hash(*SOURCES)])


def _file(plan_file: Path, identity: str) -> Path:
    return plan_file.with_name(f".{plan_file.stem}-{identity}.checkpoint")


def load(plan_file: Path | None, identity: str) -> dict | None:
    """The state of an interrupted training, or None."""
    path = plan_file and _file(plan_file, identity)
    if path is None or not path.is_file():
        return None
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        print(f"the checkpoint {path} cannot be read ({type(e).__name__}): starting from scratch", file=sys.stderr)
        return None


def save(plan_file: Path, identity: str, state: dict) -> None:
    """Write the state of a training, atomically."""
    save_torch(_file(plan_file, identity), state)


def remove(plan_file: Path) -> None:
    """Remove the checkpoints of a training whose plan has been written."""
    for path in plan_file.parent.glob(f".{plan_file.stem}-*.checkpoint"):
        path.unlink()
