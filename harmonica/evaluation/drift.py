"""How far a plan's latents drift from the uncached ones, step by step along the trajectory."""

from torch import Tensor
from tqdm import tqdm

from harmonica.execution import Batch, run
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import Plan, all_compute
from harmonica.utils import UserError


def measure(plans: dict[str, Plan], images: int = 64) -> dict[str, list[float]]:
    """Mean squared error of x_t to the uncached run from the same noise, after every step: {name: [one per step]}.

    Raises UserError unless the plans share model, sampler, number of steps, guidance scale and seed.
    """
    settings = {(p.protocol.model, p.protocol.sampler, p.steps, p.protocol.cfg, p.origin.seed) for p in plans.values()}
    if len(settings) != 1:
        raise UserError("drift compares plans of one model, sampler, number of steps, guidance scale and seed")
    first = next(iter(plans.values()))
    backbone = load_backbone(get_model(first.protocol.model))
    batch = Batch.of(backbone, first.origin.seed, 0, images)

    def latents(plan: Plan) -> list[Tensor]:
        seen: list[Tensor] = []
        run(backbone, plan, batch, callback=lambda s, x: seen.append(x))
        return seen

    plain = latents(all_compute(first.protocol, first.branches))
    out = {}
    for name, plan in tqdm(plans.items(), desc="drift", mininterval=5):
        out[name] = [float((a - b).square().mean()) for a, b in zip(latents(plan), plain, strict=True)]
    return out
