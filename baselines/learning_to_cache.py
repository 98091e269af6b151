"""Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching (Ma et al., NeurIPS 2024, arXiv 2406.01733).

Every second step is routed; the cache is filled by the step before and dropped after it, so CUR is at most 50 %. It
trains on noised real images: one uncached step t → t−1 fills the cache, and the logits of step t−1 learn to reuse it.
"""

from dataclasses import dataclass

from harmonica.learning import BetaSearch, LearnedSettings, Recipe
from harmonica.router import Router

TITLE = "Learning-to-Cache"
LABEL_DROPOUT = 0.1
RECIPES = {
    "pocket": Recipe(rounds=80, batch=16, lr=0.25, beta2=0.9),
    "paper": Recipe(rounds=2_000, batch=64, lr=1e-3),  # 50 000 updates over the 25 routed steps of T = 50
}


@dataclass(frozen=True, kw_only=True)
class Settings(LearnedSettings):
    pass


def make(task, settings: Settings) -> Router:
    import numpy as np
    import torch
    from tqdm import tqdm

    from harmonica.logits import Logits

    recipe = settings.recipe(RECIPES[task.model.scale])
    routed = range(1, task.steps, 2)  # the released code's even countdown indices, for an even number of steps
    e, tau = task.experiment, settings.threshold
    search = BetaSearch(e.method, settings, 100 * len(routed) / task.steps, recipe.rounds)
    latents, labels = task.training_latents()
    backbone, sampler = task.backbone, task.sampler
    g = torch.Generator().manual_seed(e.seed)
    logits = Logits.drawn(task.steps, len(task.shape.branches), routed, recipe, g)

    def draw():
        at = torch.randint(len(latents), (recipe.batch,), generator=g)
        drop = torch.rand(recipe.batch, generator=g) < LABEL_DROPOUT
        y = labels[at].masked_fill(drop, backbone.null_label)
        return latents[at], y, torch.randn(recipe.batch, *backbone.latent_shape, generator=g)

    search.guess(np.stack([logits.balance(s, *pair(backbone, sampler, logits, s, *draw()), 1.0, tau) for s in routed]))
    bar = tqdm(range(2 * recipe.rounds), total=recipe.rounds, desc=e.slug, mininterval=5)
    for k in bar:
        losses = [
            logits.learn(s, *pair(backbone, sampler, logits, s, *draw()), 1.0, search.beta)
            for s in torch.tensor(routed)[torch.randperm(len(routed), generator=g)].tolist()
        ]
        search.update(k, logits, tau)
        bar.set_postfix(CUR=f"{search.cur:.1f}", beta=f"{search.beta:.2e}", refresh=False)
        if search.finished(k):
            break
    bar.close()
    search.check()
    updates = (k + 1) * len(routed)
    return Router(
        logits.numpy(),
        task.origin(
            cost={"images": min(updates * recipe.batch, len(latents)), "updates": updates, "rounds": k + 1},
            notes={"threshold": tau, "beta": search.beta, "beta_moves": search.moves, "recipe": dict(recipe.__dict__),
                   "loss": float(torch.stack([loss.total for loss in losses]).mean())},
        ),
    )  # fmt: skip


def pair(backbone, sampler, logits, s: int, x0, labels, noise):
    """Outputs (n, C_out, H, W) of teacher and student at step `s`, from images x0 noised to the step before."""
    import torch

    from harmonica.executor import Plain, Soft, evaluate
    from harmonica.samplers import linear_alpha_bar

    plain, soft = Plain(backbone), Soft(backbone, None)
    before, now = sampler.timesteps[s - 1], sampler.timesteps[s]
    bar = float(linear_alpha_bar()[before])
    with torch.no_grad():
        x = bar**0.5 * x0 + (1 - bar) ** 0.5 * noise
        x = sampler.step(s - 1, evaluate(backbone, x, before, labels, soft.row(None)), x)
        teacher = evaluate(backbone, x, now, labels, plain)
    return teacher, evaluate(backbone, x, now, labels, soft.row(logits.ratios(s)))
