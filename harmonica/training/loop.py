"""The training loop of all learned methods: rounds of updates, the search for β on the way, checkpoints to resume
from."""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harmonica.execution.seeds import StepSeeds
from harmonica.plan import Router, sigmoid
from harmonica.samplers import Sampler, Seeds
from harmonica.training import LearnedSettings, Recipe, checkpoint, distributed
from harmonica.training.beta_search import BetaSearch
from harmonica.training.logits import Logits, Loss
from harmonica.utils import UserError

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

    `guess` returns the β at which each branch would settle at the threshold, `one_round` makes a round's updates with
    the search's current β; both take randomness from the generator only. Other state kept between rounds is in `kept`
    (tensors, or dictionaries of them). Raises UserError if the target CUR cannot be met or was missed, and for a model
    in float16.
    """
    tau = settings.threshold
    search = BetaSearch(task.origin.method, settings, 100 * len(routed) / task.steps, recipe.rounds)
    g = torch.Generator().manual_seed(task.seed)
    logits = Logits.random(task.steps, len(task.layout.branches), routed, recipe, g, task.backbone.device)
    kept = {} if kept is None else kept
    if task.backbone.dtype == torch.float16:
        raise UserError("router gradients underflow in float16: train in bfloat16 or float32")
    identity = checkpoint.identity(task, recipe)
    state = checkpoint.load(task.checkpoint, identity)
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
    bar = tqdm(initial=k, total=recipe.rounds, desc=task.name, mininterval=5, disable=distributed.rank() > 0)
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
            checkpoint.save(task.checkpoint, identity, state)
            saved = now
    bar.close()
    closed, cur = search.close(sigmoid(logits.numpy()), tau)
    if not (search.fixed or search.met) and distributed.rank() == 0:
        print(f"{task.name}: the search for a CUR of {search.target:g} % ended at {search.cur:.1f} % with a threshold "
              f"of {tau:g}; the plan has {cur:.1f} % with one of {closed:.3g}", file=sys.stderr)  # fmt: skip
    found = {
        "threshold": closed,
        "beta": search.beta,
        "beta_moves": search.moves,
        "recipe": recipe.__dict__ | {"betas": list(recipe.betas)},
    }
    cost = {"training_s": spent, "images": 0, "updates": k * len(routed), "rounds": k, "generation_passes": 0}
    if isinstance(weights := kept.get("weights"), Tensor):
        notes["lambda_by_step"] = weights.tolist()
    return task.router(logits.numpy(), cost, {**found, "loss": loss, **notes})


def noise_seeds(sampler: Sampler, count: int, g: torch.Generator) -> Seeds | None:
    """Seeds for the noise of a stochastic sampler, for the `count` images of a round in this process' share.

    None for a deterministic one; `g` is not advanced then.
    """
    if not sampler.stochastic:
        return None
    return StepSeeds(int(torch.randint(2**31, (), generator=g)), distributed.rank() * count, count)
