"""Step-wise denoising training (SDT, paper section 4.2): a router trained on the trajectories of inference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonica.execution import Guided, Plain
from harmonica.plan import Router
from harmonica.samplers import Sampler, Seeds
from harmonica.training import LearnedSettings, Recipe, Work, distributed, iepo
from harmonica.training.beta_search import BetaSearch
from harmonica.training.logits import Logits, Loss
from harmonica.training.loop import noise_seeds, train_router
from harmonica.training.soft import Soft

RECIPES = {
    "pocket": Recipe(rounds=60, batch=2, lr=0.3, refresh=20, betas=(0.7, 0.7), eps=1e-16),
    "paper": Recipe(rounds=20_000, batch=32, lr=0.01, refresh=500),  # the released command; 32 + 32 null
}


def trajectory(
    model: Guided,
    sampler: Sampler,
    logits: Logits,
    soft: Soft,
    noise: Tensor,
    weights: Tensor,
    beta: float,
    stale: bool = True,
    seeds: Seeds | None = None,
) -> tuple[Tensor, list[Loss]]:
    """One training iteration: from noise (n, C, H, W) to x0, with one update of every step's logits on the way.

    Teacher and student see the same latents; the next latents are the student's. `weights` is λ (steps,). The released
    code does not clear the cache between iterations, so its noisiest step mixes in 1 − sigmoid(5) of the last
    one's; with `stale` False the cache starts empty, as in the paper. `seeds(s)` are for a stochastic sampler. Returns
    x0 and the losses of steps 1 … T−1.
    """
    plain, losses = Plain(model.backbone), []
    state, lam = sampler.begin(noise), weights.tolist()
    for s, t in enumerate(sampler.timesteps):
        x = sampler.latents(state)
        if s == 0:
            first = logits.ratios(0).detach() if stale else None  # at the limit: 1 − r = 0.67 %
            with torch.no_grad():
                student = model(x, t, soft.row(first))
        else:
            with torch.no_grad():
                teacher = model.both(x, t, plain)
            both = model.both(x, t, soft.row(logits.ratios(s), plain.first))
            losses.append(logits.learn(s, teacher, both, lam[s], beta))
            student = both[: len(x)].detach()
        state = sampler.step(s, student, state, seeds)
    return sampler.latents(state), losses


def balances(
    model: Guided,
    sampler: Sampler,
    logits: Logits,
    soft: Soft,
    threshold: float,
    noise: Tensor,
    weights: Tensor,
    seeds: Seeds | None = None,
) -> np.ndarray:
    """For every routed branch the β at which it would settle at the threshold, (steps − 1, branches): one trajectory
    without updates."""
    plain, out, state, lam = Plain(model.backbone), [], sampler.begin(noise), weights.tolist()
    for s, t in enumerate(sampler.timesteps):
        x = sampler.latents(state)
        with torch.no_grad():
            teacher = model.both(x, t, plain)
        both = model.both(x, t, soft.row(logits.ratios(s) if s else None, plain.first))
        if s:
            out.append(logits.balance(s, teacher, both, lam[s], threshold))
        state = sampler.step(s, both[: len(x)].detach(), state, seeds)
    return np.stack(out)


def random_start(task, batch: int, g: torch.Generator) -> tuple[Guided, Tensor, Seeds | None]:
    """What a trajectory starts from: the guided model for random labels, noise, and seeds of the sampler's own noise;
    this process's share of `batch`."""
    labels_from = task.backbone.conditioning.training
    labels = torch.randint(labels_from.start, labels_from.stop, (batch,), generator=g)
    noise = torch.randn(batch, *task.backbone.latent_shape, generator=g)
    labels, noise = (x.to(task.backbone.device) for x in distributed.own_share(labels, noise))
    return Guided.by(task.protocol, task.backbone, labels), noise, noise_seeds(task.sampler, len(noise), g)


def work(settings: LearnedSettings, T: int, scale: str, form: str) -> Work:
    """What this training computes for T steps."""
    recipe = settings.recipe(RECIPES[scale])
    trajectories = 1 + recipe.rounds  # one for the first guess of β
    measured = 1 + -(-recipe.rounds // recipe.refresh)
    evaluations = trajectories + measured * iepo.passes(form, T) * T
    return Work(trajectories * (T - 1) * recipe.batch, evaluations * recipe.batch, recipe.batch)


def train(task, settings: LearnedSettings, form: str, stale: bool = True) -> Router:
    """A router for the task. `form` of λ: "official" or "paper" (see iepo.py), or "one" for λ ≡ 1 (L_LTC).

    No images are used. Raises UserError if the target CUR cannot be met, or was missed.
    """
    tau, recipe = settings.threshold, settings.recipe(RECIPES[task.model.scale])
    soft_cache: dict[int, Tensor] = {}
    kept: dict[str, Any] = {"weights": torch.ones(task.steps), "cache": soft_cache, "measured": torch.zeros(())}

    def image_error(model: Guided, logits: Logits, noise: Tensor, seeds: Seeds | None) -> Tensor:
        kept["measured"] += 1
        return iepo.measure(task, form, model, logits, tau, noise, seeds, soft_cache)

    def guess(logits: Logits, g: torch.Generator) -> np.ndarray:
        model, noise, seeds = random_start(task, recipe.batch, g)
        weights = image_error(model, logits, noise, seeds)
        soft = Soft(task.backbone, tau, {}, settings.checkpoint_tokens)
        return balances(model, task.sampler, logits, soft, tau, noise, weights, seeds)

    def one_round(k: int, logits: Logits, search: BetaSearch, g: torch.Generator) -> list[Loss]:
        model, noise, seeds = random_start(task, recipe.batch, g)
        if k % recipe.refresh == 0 and k < recipe.rounds:  # λ is constant in rounds added for the target
            kept["weights"] = image_error(model, logits, noise, seeds)
        soft = Soft(task.backbone, tau, soft_cache, settings.checkpoint_tokens)
        weights = kept["weights"]
        return trajectory(model, task.sampler, logits, soft, noise, weights, search.beta, stale, seeds)[1]

    router = train_router(task, settings, recipe, range(1, task.steps), guess, one_round, kept, **{"lambda": form})
    return router.with_cost(generation_passes=float(kept["measured"]) * iepo.passes(form, task.steps))
