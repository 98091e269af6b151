"""The training of Learning-to-Cache (Ma et al. 2024): every second step is routed, on noised real images."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.execution import Plain
from harmonica.execution.seeds import random_seed, step_seeds
from harmonica.plan import Router
from harmonica.samplers import Sampler, Seeds, make_sampler
from harmonica.training import LearnedSettings, Recipe, Work, iepo
from harmonica.training.beta_search import BetaSearch
from harmonica.training.logits import Logits, Loss, Part
from harmonica.training.loop import train_router
from harmonica.training.memory import Split
from harmonica.training.settings import routed_steps
from harmonica.training.soft import Soft
from harmonica.training.starts import bounds, random_starts

LABEL_DROPOUT = 0.1
REFRESH_STEPS = 500


def recipe_for(scale: str, routed: int) -> Recipe:
    """Rounds are updates of every routed step; the released code does 50 000 updates in all. λ, which is HarmoniCa's,
    is measured every 500 updates, as in its own training."""
    if scale == "paper":
        rounds, refresh = max(1, round(50_000 / routed)), max(1, round(REFRESH_STEPS / routed))
        return Recipe(rounds=rounds, batch=64, lr=1e-3, refresh=refresh)
    return Recipe(rounds=60, batch=8, lr=0.3, refresh=20, betas=(0.7, 0.7), eps=1e-16)


def train(task, settings: LearnedSettings, iepo_weights: bool) -> Router:
    """A router for the task. With `iepo_weights` the loss of a step is weighted by λ, else by 1.

    Raises UserError if the target CUR cannot be met, or was missed.
    """
    routed = routed_steps(task.steps, task.sampler.stages)
    recipe = settings.recipe(recipe_for(task.model.scale, len(routed)))
    latents, labels = task.training_latents()
    backbone, sampler, tau = task.backbone, task.sampler, settings.threshold
    split = Split.of(task.layout, recipe.batch, task.memory, settings.checkpointing, task.itemsize, guided=iepo_weights,
                     keeps_cache=False)  # fmt: skip
    own = bounds(recipe.batch, split.part)
    kept = {"seen": torch.zeros(len(latents), dtype=torch.bool), "measured": torch.zeros(())}
    form = "official" if iepo_weights else "one"
    if iepo_weights:
        kept["weights"] = torch.ones(task.steps)

    def measured(k: int, logits: Logits, g: torch.Generator) -> list[float]:
        if iepo_weights and recipe.measures(k):
            kept["measured"] += 1
            starts = random_starts(task, recipe.batch, split.part, g)
            softs = [Soft(backbone, offload=split.offload)] * len(starts)  # one part after the other
            kept["weights"] = iepo.measure(task, form, starts, logits, tau, softs, split.tails)
        return kept["weights"].tolist() if iepo_weights else [1.0] * task.steps

    def compared(logits: Logits, s: int, g: torch.Generator) -> Iterator[Part]:
        at = torch.randint(len(latents), (recipe.batch,), generator=g)
        drop = torch.rand(recipe.batch, generator=g) < LABEL_DROPOUT
        y = labels[at].masked_fill(drop, backbone.conditioning.null)
        noise = torch.randn(recipe.batch, *backbone.latent_shape, generator=g)
        kept["seen"][at] = True
        x0, seed, total = latents.draw(at, g), random_seed(sampler, g), own[-1][1] - own[0][0]
        for a, b in own:
            clean, labels_, noise_ = (x[a:b].to(backbone.device) for x in (x0, y, noise))
            seeds = step_seeds(seed, a, b)
            teacher, student = pair(backbone, sampler, logits, s, clean, labels_, noise_, seeds, split)
            yield Part.of((b - a) / total, teacher, student)

    def guess(logits: Logits, g: torch.Generator) -> np.ndarray:
        lam = measured(0, logits, g)
        return np.concatenate([logits.balances([s], compared(logits, s, g), lam[s], tau) for s in routed])

    def one_round(k: int, logits: Logits, search: BetaSearch, g: torch.Generator) -> list[Loss]:
        order = torch.tensor(routed)[torch.randperm(len(routed), generator=g)].tolist()
        lam = measured(k, logits, g)
        return [logits.descend([s], compared(logits, s, g), lam[s], search.beta) for s in order]

    notes = {"lambda": form, "split": split.record()}
    router = train_router(task, settings, recipe, routed, guess, one_round, kept, notes=notes)
    generated = float(kept["measured"]) * iepo.passes(form, task.steps)
    return router.with_cost(images=int(kept["seen"].sum()), generation_passes=generated)


def pair(
    backbone: Backbone,
    sampler: Sampler,
    logits: Logits,
    s: int,
    x0: Tensor,
    labels: Tensor,
    noise: Tensor,
    seeds: Seeds | None = None,
    split: Split | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (n, C_out, H, W) of teacher and student at step `s`, from images x0 (n, C, H, W) noised to the step
    before (with DPM-Solver-2, to the beginning of the interval before).

    `seeds(s)` are for the noise that a stochastic sampler adds on the way.
    """
    plain = Plain(backbone)
    soft = Soft(backbone, checkpointing=bool(split and split.checkpointing), offload=bool(split and split.offload))
    first, now = s - sampler.stages, sampler.timesteps[s]
    bar = sampler.alpha_bar(first)
    with torch.no_grad():
        condition = backbone.condition(labels)
        alone = sampler.starting_at(first)
        state = alone.begin(bar**0.5 * x0 + (1 - bar) ** 0.5 * noise)
        for k in range(first, s):
            output = soft.row(None).evaluate(backbone, alone.latents(state), sampler.timesteps[k], condition)
            state = alone.step(k, output, state, seeds)
        x = alone.latents(state)
        teacher = plain.evaluate(backbone, x, now, condition)
    return teacher, soft.row(logits.row(s, None), plain.first).evaluate(backbone, x, now, condition)


def work(settings: LearnedSettings, iepo_weights: bool, sampler: str, steps: int, scale: str) -> Work:
    """What this training computes, without guidance except for λ."""
    stages = make_sampler(sampler, steps).stages
    routed = len(routed_steps(steps, stages))
    recipe = settings.recipe(recipe_for(scale, routed))
    updates, measured = (1 + recipe.rounds) * routed, iepo_weights * recipe.measurements
    lam = measured * iepo.passes("official", steps) * steps
    return Work(
        updates * recipe.batch,
        updates * stages * recipe.batch,
        recipe.batch,
        lam * recipe.batch,
        guided=False,
        keeps_cache=False,
    )
