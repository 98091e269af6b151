"""Reading and writing router files as Learning-to-Cache and HarmoniCa publish them.

Layout: {"routers": {"<t>.prob": logits (branches,)}, "opt": …, "args": argparse.Namespace}, or the routers alone.

For DiT, t counts down to 0, so that the noisiest step comes last. For U-ViT, sampled by DPM-Solver-2 with T
evaluations, entry j counts the T/2 intervals from the noisiest on: the evaluation at the beginning of interval j ≥ 1 is
routed, after the one in the middle of interval j − 1, which computes all. Entries 0 and T/2 … T−1 were never trained:
they look like their N(0, 1) initial values. An entry has 58 logits, 29 blocks (14 in, 1 in the middle, 14 out) ×
{attention, MLP}, attention first: the original code reads logit 2·block for attention and 2·block + 1 for the MLP. That
reading gives the ratios that its authors state: at τ 0.9, 93.68 % of the routed steps' branches are reused at 50
evaluations, and 63.79 % at 20.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.models import MODELS, get_model
from harmonica.plan import LIMIT, Origin, Protocol, Router
from harmonica.samplers import make_sampler
from harmonica.training.settings import routed_steps
from harmonica.utils import UserError, file_hash


@dataclass(frozen=True)
class Released:
    """The content of a file: logits float32 (steps, branches) in file order, and its training arguments."""

    path: Path
    logits: np.ndarray
    args: dict[str, Any]

    @property
    def method(self) -> str:
        """HarmoniCa fixes the noisiest step at the limit, Learning-to-Cache leaves it at its initial values."""
        return "harmonica" if (self.logits[-1] >= LIMIT).all() else "learning_to_cache"

    def router(self, model: str | None = None, method: str | None = None, cfg: float | None = None) -> Router:
        """The router in the file; steps that Learning-to-Cache does not route compute everything.

        `model` defaults to the one named in the file's arguments, or the only one with as many branches. Raises
        UserError if none fits.
        """
        steps, branches = self.logits.shape
        title, size = self.args.get("model"), self.args.get("image_size")
        named = [m.name for m in MODELS.values() if (m.title, m.resolution) == (title, size)]
        if model is not None and named:
            own, theirs = get_model(model), get_model(named[0])
            if (own.kind, own.resolution) != (theirs.kind, theirs.resolution):
                raise UserError(f"{self.path} says that it is for {named[0]}, not for {model}")
        if model is None:
            alike = [m.name for m in MODELS.values() if m.scale == "paper" and len(m.layout.branches) == branches]
            fitting = named or alike
            if len(fitting) != 1:
                raise UserError(
                    f"{self.path} has {branches} branches per step and does not say which model it is for; pass one of "
                    f"{', '.join(sorted(MODELS))}"
                )
            (model,) = fitting
        about = get_model(model)
        expected = len(about.layout.branches)
        if branches != expected:
            raise UserError(f"{self.path} has {branches} branches per step, but {model} has {expected}")
        sampler = make_sampler(about.sampler, steps)
        method = method or self.method
        logits = self.logits[::-1].copy()
        if method == "learning_to_cache":
            routed = routed_steps(steps, sampler.stages)
            if sampler.stages == 2:
                logits[routed] = self.logits[1 : steps // 2]
            logits[[s for s in range(steps) if s not in routed]] = LIMIT
        settings: dict[str, Any] = {
            k: self.args[k] for k in ("l1", "lr", "max_steps", "global_batch_size") if k in self.args
        }
        notes = {"file": self.path.name, "sha256": file_hash(self.path)}
        scale = about.cfg if cfg is None else cfg
        protocol = Protocol(about.name, about.sampler, steps, scale)
        return Router(logits, protocol, Origin(method, settings, notes=notes))


def threshold(model: str) -> float:
    """The τ that the authors use for this model."""
    return 0.9 if get_model(model).kind == "uvit" else 0.1


def read(path: str | Path) -> Released:
    """Read a released router file. Raises UserError if it is missing, damaged, not a router, or would run code."""
    from torch import Tensor

    from harmonica.utils.torch_files import load_torch

    state = load_torch(path)
    table = state.get("routers", state) if isinstance(state, dict) else {}
    rows = table.values() if isinstance(table, dict) else ()
    if not rows or not all(isinstance(v, Tensor) and v.ndim == 1 and v.is_floating_point() for v in rows):
        raise UserError(f"{path} contains no routers: one vector of logits per step is expected")
    found = {int(m[1]): v for k, v in table.items() if (m := re.fullmatch(r"(\d+)\.prob", str(k)))}
    if len(found) != len(table) or sorted(found) != list(range(len(found))):
        raise UserError(f"{path}: the steps must be named 0.prob … {len(table) - 1}.prob")
    if len({len(v) for v in found.values()}) > 1:
        raise UserError(f"{path}: the steps have different numbers of branches")
    logits = np.stack([found[t].float().numpy() for t in sorted(found)])
    args = state.get("args", {})
    return Released(Path(path), logits, dict(args if isinstance(args, dict) else vars(args)))


def write(router: Router, path: str | Path) -> None:
    """Write a router in the released layout, for the official samplers: by steps, the noisiest last, or by intervals of
    a sampler with two evaluations in each."""
    import torch

    from harmonica.utils.torch_files import save_torch

    steps, p = len(router.logits), router.protocol
    logits = router.logits[::-1]
    if make_sampler(p.sampler, steps).stages == 2:
        logits = np.full_like(router.logits, LIMIT)
        logits[1 : steps // 2] = router.logits[routed_steps(steps, 2)]
    rows = {f"{t}.prob": torch.from_numpy(row.copy()) for t, row in enumerate(logits)}
    save_torch(path, {"routers": rows})
