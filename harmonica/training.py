"""The loop all learned methods share: rounds of updates, the search for β on the way, a checkpoint to go on from."""

import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harmonica import distributed
from harmonica.errors import UserError
from harmonica.learning import SOURCES, BetaSearch, LearnedSettings, Recipe
from harmonica.logits import Logits, Loss
from harmonica.pickles import save_pickle
from harmonica.provenance import digest, source_hash
from harmonica.router import Router, sigmoid
from harmonica.sampling import Seeds, StepSeeds

SAVE_EVERY_S = 30.0


def train_router(
    task,
    settings: LearnedSettings,
    recipe: Recipe,
    routed: range,
    guess: Callable[[Logits, torch.Generator], np.ndarray],
    one_round: Callable[[int, Logits, BetaSearch, torch.Generator], list[Loss]],
    kept: dict[str, Any] | None = None,
    **notes,
) -> Router:
    """Train the logits of the steps in `routed` until the rounds are done and the search for β has ended.

    `guess` gives the β at which each branch would settle at the threshold, `one_round` makes a round's updates with
    the search's β of the moment; both draw from the generator only. What else has to live from round to round lies in
    `kept` (tensors, numbers, dictionaries of them). Raises UserError when the target cannot be, or was not, reached,
    and for a model in float16.
    """
    e, tau = task.experiment, settings.threshold
    search = BetaSearch(e.method, settings, 100 * len(routed) / task.steps, recipe.rounds)
    g = torch.Generator().manual_seed(e.seed)
    logits = Logits.drawn(task.steps, len(task.shape.branches), routed, recipe, g, task.backbone.device)
    kept = {} if kept is None else kept
    if task.backbone.dtype == torch.float16:
        raise UserError("gradients of a router are lost in float16: train in bfloat16 or float32")
    state = load_checkpoint(task.checkpoint, _identity(task, recipe))
    k, spent, loss = 0, 0.0, float("nan")
    if state is None:
        if not search.fixed:
            search.guess(guess(logits, g))
    else:
        k, spent, loss = state["round"], state["spent_s"], state["loss"]
        logits.load_state(state["logits"])
        search.__dict__.update(state["search"] | {"rounds": recipe.rounds})
        g.set_state(state["generator"])
        device = task.backbone.device
        for key, value in state["kept"].items():
            if isinstance(kept.get(key), dict):
                kept[key].clear()
                kept[key].update({k: v.to(device) for k, v in value.items()})
            else:
                kept[key] = value.to(device)

    begun = saved = time.perf_counter()
    bar = tqdm(initial=k, total=recipe.rounds, desc=e.slug, mininterval=5, disable=distributed.rank() > 0)
    while not search.finished(k - 1):
        losses = one_round(k, logits, search, g)
        loss = float(distributed.mean(torch.stack([loss.total for loss in losses]).mean()))
        search.update(k, logits, tau)
        bar.set_postfix(CUR=f"{search.cur:.1f}", beta=f"{search.beta:.2e}", refresh=False)
        bar.update()
        k += 1
        now = time.perf_counter()
        if task.checkpoint and distributed.rank() == 0 and (search.finished(k - 1) or now - saved > SAVE_EVERY_S):
            state = {"round": k, "loss": loss, "kept": kept, "spent_s": spent + now - begun, "logits": logits.state(),
                     "search": dict(search.__dict__), "generator": g.get_state()}  # fmt: skip
            save_checkpoint(task.checkpoint, _identity(task, recipe), state)
            saved = now
    bar.close()
    closed, cur = search.close(sigmoid(logits.numpy()), tau)
    if not (search.fixed or search.met) and distributed.rank() == 0:
        print(f"{e.slug}: the search for a CUR of {search.target:g} % ended at {search.cur:.1f} % with a threshold of "
              f"{tau:g}; the plan has {cur:.1f} % with one of {closed:.3g}", file=sys.stderr)  # fmt: skip
    found = {
        "threshold": closed,
        "beta": search.beta,
        "beta_moves": search.moves,
        "recipe": recipe.__dict__ | {"betas": list(recipe.betas)},
    }
    cost = {"training_s": spent, "images": 0, "updates": k * len(routed), "rounds": k, "generation_passes": 0}
    if isinstance(weights := kept.get("weights"), Tensor):
        notes["lambda_by_step"] = weights.tolist()
    return Router(logits.numpy(), task.origin(cost=cost, notes={**found, "loss": loss, **notes}))


def draw_seeds(sampler, count: int, g: torch.Generator) -> Seeds | None:
    """Seeds for the noise of a stochastic sampler, for the `count` images of a round that are this process' own.

    Another sampler needs none, and nothing is drawn for it.
    """
    if not sampler.stochastic:
        return None
    return StepSeeds(int(torch.randint(2**31, (), generator=g)), distributed.rank() * count, count)


def _identity(task, recipe: Recipe) -> str:
    """A checkpoint goes on only where everything but the number of rounds is as it was."""
    e = task.experiment
    settings = {k: v for k, v in e.settings.__dict__.items() if k != "rounds"}
    about = [e.model, e.sampler, e.steps, e.cfg, e.method]
    return digest([about, settings, recipe.batch, recipe.lr, e.seed, task.model.fingerprint, source_hash(*SOURCES)])


def _checkpoint_file(plan_file: Path, identity: str) -> Path:
    return plan_file.with_name(f".{plan_file.stem}-{identity}.checkpoint")


def load_checkpoint(plan_file: Path | None, identity: str) -> dict | None:
    """The state of an interrupted training, or None."""
    path = plan_file and _checkpoint_file(plan_file, identity)
    if path is None or not path.is_file():
        return None
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        print(f"the checkpoint {path} cannot be read ({type(e).__name__}): starting anew", file=sys.stderr)
        return None


def save_checkpoint(plan_file: Path, identity: str, state: dict) -> None:
    save_pickle(_checkpoint_file(plan_file, identity), state)
