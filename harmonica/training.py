"""The loop all learned methods share: rounds of updates, the search for β on the way, a checkpoint to go on from."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harmonica.learning import BetaSearch, LearnedSettings, Recipe
from harmonica.logits import Logits, Loss
from harmonica.provenance import digest
from harmonica.router import Router


def train_router(
    task,
    settings: LearnedSettings,
    recipe: Recipe,
    routed: range,
    guess: Callable[[Logits, torch.Generator], np.ndarray],
    one_round: Callable[[int, Logits, float, torch.Generator], list[Loss]],
    kept: dict[str, Any] | None = None,
    **notes,
) -> Router:
    """Train the logits of the steps in `routed` until the rounds are done and the target CUR is met.

    `guess` gives the β at which each branch would settle at the threshold, `one_round` makes a round's updates with the
    β of the moment; both draw from the generator only. What else has to live from round to round lies in `kept`
    (tensors, numbers, dictionaries of them). Raises UserError when the target cannot be, or was not, reached.
    """
    e, tau = task.experiment, settings.threshold
    search = BetaSearch(e.method, settings, 100 * len(routed) / task.steps, recipe.rounds)
    g = torch.Generator().manual_seed(e.seed)
    logits = Logits.drawn(task.steps, len(task.shape.branches), routed, recipe, g)
    kept = {} if kept is None else kept
    checkpoint = Checkpoint(task.checkpoint, digest([e.slug, e.settings.__dict__, recipe.__dict__, e.seed]))
    start, spent = 0, 0.0
    saved = checkpoint.load()
    if saved is None:
        search.guess(guess(logits, g))
    else:
        start, spent = saved["round"], saved["spent_s"]
        logits.load_state(saved["logits"])
        search.__dict__.update(saved["search"])
        g.set_state(saved["generator"])
        for key, value in saved["kept"].items():
            if isinstance(kept.get(key), dict):
                kept[key].clear()
                kept[key].update(value)
            else:
                kept[key] = value

    begun = time.perf_counter()
    bar = tqdm(initial=start, total=recipe.rounds, desc=e.slug, mininterval=5)
    k = start
    while True:
        losses = one_round(k, logits, search.beta, g)
        search.update(k, logits, tau)
        bar.set_postfix(CUR=f"{search.cur:.1f}", beta=f"{search.beta:.2e}", refresh=False)
        bar.update()
        k += 1
        if search.finished(k - 1):
            break
        state = {"round": k, "logits": logits.state(), "search": dict(search.__dict__), "generator": g.get_state()}
        checkpoint.save({**state, "kept": kept, "spent_s": spent + time.perf_counter() - begun})
    bar.close()
    checkpoint.clear()
    search.check()
    found = {"threshold": tau, "beta": search.beta, "beta_moves": search.moves, "recipe": dict(recipe.__dict__)}
    loss = float(torch.stack([loss.total for loss in losses]).mean())
    cost = {"training_s": spent, "images": 0, "updates": k * len(routed), "rounds": k}
    return Router(logits.numpy(), task.origin(cost=cost, notes={**found, "loss": loss, **notes}))


class Checkpoint:
    """State that takes its name only when whole, written every half minute; one for another training is not read."""

    def __init__(self, path: Path | None, key: str, every_s: float = 30.0):
        self.path = path and path.with_name(f".{path.stem}-{key}.checkpoint")
        self.every_s, self._last = every_s, time.perf_counter()

    def load(self) -> dict | None:
        if self.path is None or not self.path.is_file():
            return None
        return torch.load(self.path, weights_only=True)

    def save(self, state: dict) -> None:
        if self.path is None or time.perf_counter() - self._last < self.every_s:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tmp = self.path.with_suffix(".tmp")
        torch.save(state, tmp)
        os.replace(tmp, self.path)
        self._last = time.perf_counter()

    def clear(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
