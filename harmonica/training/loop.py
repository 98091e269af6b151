"""The training loop of all learned methods: rounds of updates, the search for β on the way, checkpoints to resume
from."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harmonica.plan import Router, sigmoid
from harmonica.training import LearnedSettings, Recipe, checkpoint, distributed
from harmonica.training.beta_search import BetaSearch
from harmonica.training.logits import Logits, Loss
from harmonica.utils import UserError
from harmonica.utils.precision import products

SAVE_EVERY_S = 30.0
STALL = 0.01  # of the time of a training that may go into checkpoints


def train_router(
    task,
    settings: LearnedSettings,
    recipe: Recipe,
    routed: range,
    guess: Callable[[Logits, torch.Generator], np.ndarray],
    one_round: Callable[[int, Logits, BetaSearch, torch.Generator], list[Loss]],
    kept: dict[str, Tensor] | None = None,
    caches: checkpoint.Caches = ((), []),
    notes: dict[str, Any] | None = None,
) -> Router:
    """Train the logits of the steps in `routed` until the rounds are done and the search for β has ended.

    `guess` returns the β at which each branch would settle at the threshold, `one_round` makes a round's updates with
    the search's current β; both take randomness from the generator only. Other state kept between rounds is in `kept`
    (tensors on the host) and in the soft `caches` of this process's parts. Checkpoints take at most STALL of the time
    and do not count as training. Raises UserError if the target CUR cannot be met or was missed, and for a model in
    float16.
    """
    with products(task.precision):
        return _train(
            task, settings, recipe, routed, guess, one_round, {} if kept is None else kept, caches, dict(notes or {})
        )


def _train(task, settings, recipe, routed, guess, one_round, kept, caches, notes) -> Router:
    tau = settings.threshold
    search = BetaSearch(task.origin.method, settings, 100 * len(routed) / task.steps, recipe.rounds)
    g = torch.Generator().manual_seed(task.seed)
    logits = Logits.random(task.steps, len(task.layout.branches), routed, recipe, g, task.backbone.device)
    if task.backbone.dtype == torch.float16:
        raise UserError("router gradients underflow in float16: train in bfloat16 or float32")
    identity = checkpoint.identity(task, recipe)
    state = checkpoint.load(task.checkpoint, identity)
    if state and not checkpoint.load_caches(task.checkpoint, identity, state, caches, task.backbone.device):
        print(f"{task.name}: a piece of its checkpoint is missing: starting from scratch", file=sys.stderr)
        state = None
    k, spent, loss = 0, 0.0, float("nan")  # spent: seconds of all processes
    if state is None:
        if not search.fixed:
            search.guess(guess(logits, g))
    else:
        k, spent, loss = state["round"], state["spent_s"], state["loss"]
        logits.load_state(state["logits"])
        search.__dict__.update(state["search"] | {"rounds": recipe.rounds, "off_target": settings.off_target})
        g.set_state(state["generator"])
        kept.update(state["kept"])

    world, begun = distributed.world(), time.perf_counter()
    saved = begun
    stalled = longest = 0.0  # seconds of all checkpoints, and of the slowest
    bar = tqdm(initial=k, total=recipe.rounds, desc=task.name, mininterval=5, disable=distributed.rank() > 0)
    while not search.finished(k - 1):
        losses = one_round(k, logits, search, g)
        loss = float(distributed.mean(torch.stack([loss.total for loss in losses]).mean()))
        if not math.isfinite(loss):
            raise UserError(
                f"{task.name}: the loss of round {k + 1} is {loss}: weights, latents or learning rate are wrong"
            )
        search.update(k, logits, tau)
        bar.set_postfix(CUR=f"{search.cur:.1f}", beta=f"{search.beta:.2e}", refresh=False)
        bar.update()
        k += 1
        now = time.perf_counter()
        due = search.finished(k - 1) or now - saved > max(SAVE_EVERY_S, longest / STALL)
        if task.checkpoint and distributed.agreed(due):
            state = {"round": k, "loss": loss, "kept": kept, "spent_s": spent + world * (now - begun - stalled),
                     "logits": logits.state(), "search": dict(search.__dict__), "generator": g.get_state()}  # fmt: skip
            checkpoint.save(task.checkpoint, identity, state, caches)
            saved = time.perf_counter()
            stalled, longest = stalled + saved - now, max(longest, saved - now)
    bar.close()
    final = search.chosen(logits.numpy())
    closed, cur = search.close(sigmoid(final), tau)
    if not (search.fixed or search.met) and distributed.rank() == 0:
        print(f"{task.name}: the search for a CUR of {search.target:g} % ended at {search.cur:.1f} % with a threshold "
              f"of {tau:g}; the plan has {cur:.1f} % with one of {closed:.3g}", file=sys.stderr)  # fmt: skip
    found = {
        "threshold": closed,
        "beta": search.beta,
        "beta_moves": search.moves,
        "recipe": recipe.__dict__ | {"betas": list(recipe.betas)},
    }
    cost = {"training_s": spent - world * stalled, "images": 0}
    cost |= {"updates": k * len(routed), "rounds": k, "generation_passes": 0}
    if isinstance(weights := kept.get("weights"), Tensor):
        notes["lambda_by_step"] = weights.tolist()
    return task.router(final, cost, {**found, "loss": loss, **notes})
