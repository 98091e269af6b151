"""Direct optimisation of the final image: what the HarmoniCa paper argues against, and its table 6 leaves out.

The router is trained on the squared error of x0 itself, by gradients through the full cached trajectory and its
caches, one update of all logits per trajectory. It needs no proxy λ; it needs every step's activations at once.
"""

from dataclasses import dataclass
from functools import partial

from harmonica.methods import LearnedMethod, Task
from harmonica.plan import Protocol, Router
from harmonica.training import Work


@dataclass(frozen=True, kw_only=True)
class Direct(LearnedMethod):
    title = "Direct optimisation of x0"

    def make(self, task: Task) -> Router:
        import torch

        from harmonica.execution import Plain, denoise
        from harmonica.training.logits import Part
        from harmonica.training.loop import train_router
        from harmonica.training.memory import Split
        from harmonica.training.sdt import recipe_for
        from harmonica.training.soft import Soft
        from harmonica.training.starts import random_starts

        recipe, routed = self.recipe(recipe_for(task.model.scale, task.steps, task.layout)), range(1, task.steps)
        sampler, at = task.sampler, task.sampler.timesteps
        split = Split.of(task.layout, recipe.batch, task.memory, self.checkpointing, task.itemsize,
                         graph_steps=task.steps, keeps_cache=False)  # fmt: skip

        def output(model, plain, x, s):
            return model(x, at[s], plain)

        def soft_output(logits, model, soft, x, s):
            return model(x, at[s], soft.row(logits.row(s, self.threshold) if s else None))

        def image_errors(logits, g):
            """Share and mean squared distance of x0 under the soft router to the uncached one, of every part."""
            for start in random_starts(task, recipe.batch, split.part, g):
                model, plain = start.model, Plain(task.backbone)
                soft = Soft(task.backbone, {}, split.checkpointing, split.offload, detach=False)
                state = sampler.begin(start.noise)
                with torch.no_grad():
                    target = denoise(sampler, state, partial(output, model, plain), seeds=start.seeds)
                student = partial(soft_output, logits, model, soft)
                yield Part.of(start.share, target, denoise(sampler, state, student, seeds=start.seeds))

        def guess(logits, g):
            return logits.balances(routed, image_errors(logits, g), 1.0, self.threshold)

        def one_round(k, logits, search, g):
            return [logits.descend(routed, image_errors(logits, g), 1.0, search.beta)]

        return train_router(task, self, recipe, routed, guess, one_round, notes={"split": split.record()})

    def work(self, protocol: Protocol, scale: str) -> Work:
        from harmonica.models import get_model
        from harmonica.training.sdt import recipe_for

        recipe = self.recipe(recipe_for(scale, protocol.steps, get_model(protocol.model).layout))
        images = (1 + recipe.rounds) * protocol.steps * recipe.batch
        return Work(images, 0, recipe.batch, graph_steps=protocol.steps, keeps_cache=False)
