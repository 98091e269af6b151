"""How far a plan's latents drift from the uncached ones, step by step along the trajectory."""

from torch import Tensor
from tqdm import tqdm

from harmonica.backbones.base import Backbone
from harmonica.evaluation.generate import batch_size
from harmonica.execution import Batch, run
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import Plan, all_compute
from harmonica.utils import UserError
from harmonica.utils.precision import products


def measure(
    plans: dict[str, Plan], images: int = 64, precision: str = "float32", memory: float | None = None, seed: int = 0
) -> dict[str, list[float]]:
    """Mean squared error of x_t to the uncached run from the same noise, after every step: {name: [one per step]}.

    Raises UserError unless the plans share model, sampler, number of steps and guidance scale.
    """
    settings = {(p.protocol.model, p.protocol.sampler, p.steps, p.protocol.cfg) for p in plans.values()}
    if len(settings) != 1:
        raise UserError("drift compares plans of one model, sampler, number of steps and guidance scale")
    first = next(iter(plans.values()))
    backbone = load_backbone(get_model(first.protocol.model), precision)
    plain = all_compute(first.protocol, first.branches)
    batch = min(batch_size(p, images, precision, memory) for p in plans.values())
    totals = {name: [0.0] * plan.steps for name, plan in plans.items()}
    for at in tqdm(range(0, images, batch), desc="drift", mininterval=5):
        start = Batch.of(backbone, seed, at, min(batch, images - at))
        with products(precision):
            target = latents(backbone, plain, start)
            for name, plan in plans.items():
                for s, (a, b) in enumerate(zip(latents(backbone, plan, start), target, strict=True)):
                    totals[name][s] += float((a - b).square().mean()) * len(a) / images
    return totals


def latents(backbone: Backbone, plan: Plan, start: Batch) -> list[Tensor]:
    """The latents (n, C, H, W) after every step."""
    seen: list[Tensor] = []
    run(backbone, plan, start, callback=lambda s, x: seen.append(x))
    return seen
