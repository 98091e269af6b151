"""Direct optimisation of the final image: what the HarmoniCa paper argues against, and its table 6 leaves out.

The router is trained on the squared error of x0 itself, by gradients through the full cached trajectory and its
caches, one update of all logits per trajectory. It needs no proxy λ; it needs every step's activations at once.
"""

from dataclasses import dataclass

from harmonica.methods import LearnedMethod, Task
from harmonica.plan import Protocol, Router
from harmonica.training import Work


@dataclass(frozen=True, kw_only=True)
class Direct(LearnedMethod):
    title = "Direct optimisation of x0"

    def make(self, task: Task) -> Router:
        import torch

        from harmonica.execution import Plain, denoise
        from harmonica.training.loop import train_router
        from harmonica.training.sdt import RECIPES, random_start
        from harmonica.training.soft import Soft

        recipe, routed = self.recipe(RECIPES[task.model.scale]), range(1, task.steps)
        sampler = task.sampler

        def image_error(logits, g):
            """Mean squared distance of x0 under the soft router to the uncached one, with its graph."""
            model, noise, seeds = random_start(task, recipe.batch, g)
            plain = Plain(task.backbone)
            soft = Soft(task.backbone, self.threshold, {}, self.checkpoint_tokens, detach=False)
            state, at = sampler.begin(noise), sampler.timesteps
            with torch.no_grad():
                target = denoise(sampler, state, lambda x, s: model(x, at[s], plain), seeds=seeds)

            def student(x, s):
                return model(x, at[s], soft.row(logits.ratios(s) if s else None))

            return (denoise(sampler, state, student, seeds=seeds) - target).square().mean()

        def guess(logits, g):
            return logits.balances(routed, image_error(logits, g), self.threshold)

        def one_round(k, logits, search, g):
            return [logits.descend(routed, image_error(logits, g), 1.0, search.beta)]

        return train_router(task, self, recipe, routed, guess, one_round)

    def work(self, protocol: Protocol, scale: str) -> Work:
        from harmonica.training.sdt import RECIPES

        recipe = self.recipe(RECIPES[scale])
        return Work((1 + recipe.rounds) * protocol.steps * recipe.batch, 0, recipe.batch)
