"""Direct optimisation of the final image: what the HarmoniCa paper argues against, and its table 6 leaves out.

The router is trained on the squared error of x0 itself, by gradients through the whole cached trajectory and its
caches, one update of all steps' logits a trajectory. It needs no proxy λ; it needs every step's activations at once.
"""

from dataclasses import dataclass

from harmonica.learning import LearnedSettings, Work
from harmonica.router import Router

TITLE = "Direct optimisation of x0"


@dataclass(frozen=True, kw_only=True)
class Settings(LearnedSettings):
    pass


def make(task, settings: Settings) -> Router:
    import torch

    from harmonica.executor import Plain, Soft
    from harmonica.sampling import denoise
    from harmonica.sdt import RECIPES, draw
    from harmonica.training import train_router

    recipe, routed = settings.recipe(RECIPES[task.model.scale]), range(1, task.steps)
    sampler = task.sampler

    def image_error(logits, g):
        """Mean squared distance of x0 under the soft router to the uncached one, with its graph."""
        model, noise, seeds = draw(task, recipe.batch, g)
        plain = Plain(task.backbone)
        soft = Soft(task.backbone, settings.threshold, {}, settings.checkpoint_tokens, detach=False)
        begun, at = sampler.begin(noise), sampler.timesteps
        with torch.no_grad():
            target = denoise(begun, sampler, lambda x, s: model(x, at[s], plain), seeds=seeds)
        x0 = denoise(
            begun, sampler, lambda x, s: model(x, at[s], soft.row(logits.ratios(s) if s else None)), seeds=seeds
        )
        return (x0 - target)[:, : noise.shape[1]].square().mean()

    def guess(logits, g):
        return logits.balances(routed, image_error(logits, g), settings.threshold)

    def one_round(k, logits, search, g):
        return [logits.descend(routed, image_error(logits, g), 1.0, search.beta)]

    return train_router(task, settings, recipe, routed, guess, one_round)


def work(experiment, scale: str, sampler) -> Work:
    from harmonica.sdt import RECIPES

    recipe = experiment.settings.recipe(RECIPES[scale])
    return Work((1 + recipe.rounds) * experiment.steps * recipe.batch, 0, recipe.batch)
