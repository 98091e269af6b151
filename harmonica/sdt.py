"""Step-wise denoising training (SDT, paper section 4.2): a router trained on the trajectories that inference walks."""

import numpy as np
import torch
from torch import Tensor

from harmonica import distributed, iepo
from harmonica.executor import Plain, Soft
from harmonica.learning import BetaSearch, LearnedSettings, Recipe, Work
from harmonica.logits import Logits, Loss
from harmonica.router import Router
from harmonica.sampling import Guided, Seeds
from harmonica.training import draw_seeds, train_router

RECIPES = {
    "pocket": Recipe(rounds=60, batch=2, lr=0.3, refresh=20, betas=(0.7, 0.7), eps=1e-16),
    "paper": Recipe(rounds=20_000, batch=32, lr=0.01, refresh=500),  # the released command; 32 + 32 null
}


def trajectory(
    model: Guided,
    sampler,
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
    code does not clear the cache between iterations, so that its noisiest step mixes in 1 − sigmoid(5) of what the last
    one left; `stale` False starts clean, as the paper has it. `seeds(s)` are those of a stochastic sampler. Returns x0
    and the losses of steps 1 … T−1.
    """
    plain, losses = Plain(model.backbone), []
    x, lam = sampler.begin(noise), weights.tolist()
    for s, t in enumerate(sampler.timesteps):
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
        x = sampler.step(s, student, x, seeds)
    return x[:, : noise.shape[1]], losses


def balances(
    model: Guided, sampler, logits: Logits, soft: Soft, noise: Tensor, weights: Tensor, seeds: Seeds | None = None
) -> np.ndarray:
    """For every routed branch the β at which it would settle at the threshold: one trajectory without updates."""
    plain, out, x, lam = Plain(model.backbone), [], sampler.begin(noise), weights.tolist()
    for s, t in enumerate(sampler.timesteps):
        with torch.no_grad():
            teacher = model.both(x, t, plain)
        both = model.both(x, t, soft.row(logits.ratios(s) if s else None, plain.first))
        if s:
            out.append(logits.balance(s, teacher, both, lam[s], soft.threshold))
        x = sampler.step(s, both[: len(x)].detach(), x, seeds)
    return np.stack(out)


def draw(task, batch: int, g: torch.Generator) -> tuple[Guided, Tensor, Seeds | None]:
    """What a trajectory starts from: the guided model for labels drawn at random, noise, and seeds of the sampler's own
    noise; of `batch` images this process' share."""
    e = task.experiment
    labels = torch.randint(*task.backbone.training_labels, (batch,), generator=g)
    noise = torch.randn(batch, *task.backbone.latent_shape, generator=g)
    labels, noise = (x.to(task.backbone.device) for x in distributed.own_share(labels, noise))
    seeds = draw_seeds(task.sampler, len(noise), g)
    return Guided(task.backbone, labels, e.cfg, task.model.guided_channels(e.sampler)), noise, seeds


def work(experiment, scale: str, form: str) -> Work:
    """What this training computes."""
    recipe, T = experiment.settings.recipe(RECIPES[scale]), experiment.steps
    trajectories = 1 + recipe.rounds  # one for the first guess of β
    measured = 1 + -(-recipe.rounds // recipe.refresh)
    evaluations = trajectories + measured * iepo.passes(form, T) * T
    return Work(trajectories * (T - 1) * recipe.batch, evaluations * recipe.batch, recipe.batch)


def train(task, settings: LearnedSettings, form: str, stale: bool = True) -> Router:
    """A router for the task. `form` of λ: "official" or "paper" (see iepo.py), or "one" for λ ≡ 1 (L_LTC).

    No images are used. Raises UserError when the target CUR cannot be, or was not, reached.
    """
    tau, recipe = settings.threshold, settings.recipe(RECIPES[task.model.scale])
    soft_cache: dict[int, Tensor] = {}
    kept = {"weights": torch.ones(task.steps), "cache": soft_cache, "measured": torch.zeros(())}

    def image_error(model: Guided, logits: Logits, noise: Tensor, seeds: Seeds | None) -> Tensor:
        kept["measured"] += 1
        return iepo.measure(task, form, model, logits, tau, noise, seeds, soft_cache)

    def guess(logits: Logits, g: torch.Generator) -> np.ndarray:
        model, noise, seeds = draw(task, recipe.batch, g)
        weights = image_error(model, logits, noise, seeds)
        soft = Soft(task.backbone, tau, {}, settings.checkpoint_tokens)
        return balances(model, task.sampler, logits, soft, noise, weights, seeds)

    def one_round(k: int, logits: Logits, search: BetaSearch, g: torch.Generator) -> list[Loss]:
        model, noise, seeds = draw(task, recipe.batch, g)
        if k % recipe.refresh == 0 and k < recipe.rounds:  # in the rounds that are added for the target, λ rests
            kept["weights"] = image_error(model, logits, noise, seeds)
        soft = Soft(task.backbone, tau, soft_cache, settings.checkpoint_tokens)
        weights = kept["weights"]
        return trajectory(model, task.sampler, logits, soft, noise, weights, search.beta, stale, seeds)[1]

    router = train_router(task, settings, recipe, range(1, task.steps), guess, one_round, kept, **{"lambda": form})
    return router.with_cost(generation_passes=float(kept["measured"]) * iepo.passes(form, task.steps))
