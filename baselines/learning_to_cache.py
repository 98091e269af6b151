"""Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching (Ma et al., NeurIPS 2024, arXiv 2406.01733).

Every second step is routed; the cache is filled by the step before and dropped after it, so CUR is at most 50 %. It
trains on noised real images: one uncached step t → t−1 fills the cache, and the logits of step t−1 learn to reuse it.

`iepo` is of the HarmoniCa paper's ablation: its image-error proxy λ as the weight of a step's loss, in this training.
"""

from dataclasses import dataclass

from harmonica.learning import CHECKPOINT_TOKENS, LearnedSettings, Recipe, Work
from harmonica.router import Router

TITLE = "Learning-to-Cache"
LABEL_DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Settings(LearnedSettings):
    iepo: bool = False  # weigh the steps by λ, as HarmoniCa does


def recipe_for(scale: str, routed: int) -> Recipe:
    """Rounds are updates of every routed step; the released code does 50 000 updates in all."""
    if scale == "paper":
        return Recipe(rounds=round(50_000 / routed), batch=64, lr=1e-3, refresh=500)
    return Recipe(rounds=60, batch=8, lr=0.3, refresh=20, betas=(0.7, 0.7), eps=1e-16)


def routed_steps(steps: int, stages: int = 1) -> range:
    """Every second step; each follows one that computes everything.

    For a sampler with one evaluation a step (`stages`) they are the released DiT code's even countdown indices. With
    DPM-Solver-2 the released U-ViT code caches in the middle of an interval and reuses at the beginning of the next.
    """
    return range(stages if stages > 1 else 1 + steps % 2, steps, 2)


def make(task, settings: Settings) -> Router:
    import numpy as np
    import torch

    from harmonica import distributed, iepo
    from harmonica.sdt import draw
    from harmonica.training import draw_seeds, train_router

    routed = routed_steps(task.steps, task.sampler.stages)
    recipe = settings.recipe(recipe_for(task.model.scale, len(routed)))
    latents, labels = task.training_latents()
    backbone, sampler = task.backbone, task.sampler
    kept = {"seen": torch.zeros(len(latents), dtype=torch.bool), "measured": torch.zeros(())}
    form = "official" if settings.iepo else "one"
    if settings.iepo:
        kept["weights"] = torch.ones(task.steps)

    def measured(k, logits, g) -> list[float]:
        if settings.iepo and k % recipe.refresh == 0:
            kept["measured"] += 1
            model, noise, seeds = draw(task, recipe.batch, g)
            kept["weights"] = iepo.measure(task, form, model, logits, settings.threshold, noise, seeds, {})
        return kept["weights"].tolist() if settings.iepo else [1.0] * task.steps

    def outputs(logits, s: int, g):
        at = torch.randint(len(latents), (recipe.batch,), generator=g)
        drop = torch.rand(recipe.batch, generator=g) < LABEL_DROPOUT
        y = labels[at].masked_fill(drop, backbone.null_label)
        noise = torch.randn(recipe.batch, *backbone.latent_shape, generator=g)
        kept["seen"][at] = True
        own = [x.to(backbone.device) for x in distributed.own_share(latents[at], y, noise)]
        seeds = draw_seeds(sampler, len(own[0]), g)
        return pair(backbone, sampler, logits, s, *own, seeds, settings.checkpoint_tokens)

    def guess(logits, g):
        lam = measured(0, logits, g)
        return np.stack([logits.balance(s, *outputs(logits, s, g), lam[s], settings.threshold) for s in routed])

    def one_round(k, logits, search, g):
        order = torch.tensor(routed)[torch.randperm(len(routed), generator=g)].tolist()
        lam = measured(k, logits, g)
        return [logits.learn(s, *outputs(logits, s, g), lam[s], search.beta) for s in order]

    router = train_router(task, settings, recipe, routed, guess, one_round, kept, **{"lambda": form})
    generated = float(kept["measured"]) * iepo.passes(form, task.steps)
    return router.with_cost(images=int(kept["seen"].sum()), generation_passes=generated)


def pair(backbone, sampler, logits, s: int, x0, labels, noise, seeds=None, checkpoint_tokens: int = CHECKPOINT_TOKENS):
    """Outputs (n, C_out, H, W) of teacher and student at step `s`, from images x0 noised to the step before (with
    DPM-Solver-2, to the beginning of the interval before).

    `seeds(s)`, one an image, are for the noise that a stochastic sampler adds on the way.
    """
    import torch

    from harmonica.executor import Plain, Soft, evaluate

    plain, soft = Plain(backbone), Soft(backbone, None, {}, checkpoint_tokens)
    first, now = s - sampler.stages, sampler.timesteps[s]
    bar, channels = sampler.alpha_bar(first), x0.shape[1]
    with torch.no_grad():
        condition = backbone.condition(labels)
        alone = sampler.starting_at(first)
        x = alone.begin(bar**0.5 * x0 + (1 - bar) ** 0.5 * noise)
        for k in range(first, s):
            output = evaluate(backbone, x[:, :channels], sampler.timesteps[k], condition, soft.row(None))
            x = alone.step(k, output, x, seeds)
        x = x[:, :channels]
        teacher = evaluate(backbone, x, now, condition, plain)
    return teacher, evaluate(backbone, x, now, condition, soft.row(logits.ratios(s), plain.first))


def work(experiment, scale: str, sampler) -> Work:
    """Without guidance; the measurements of λ, where it is asked for, count as if they had none either."""
    from harmonica import iepo

    settings, steps = experiment.settings, experiment.steps
    routed = len(routed_steps(steps, sampler.stages))
    recipe = settings.recipe(recipe_for(scale, routed))
    updates, measured = (1 + recipe.rounds) * routed, settings.iepo * -(-recipe.rounds // recipe.refresh)
    evaluations = updates * sampler.stages + 2 * measured * iepo.passes("official", steps) * steps
    return Work(updates * recipe.batch, evaluations * recipe.batch, recipe.batch, guided=False)
