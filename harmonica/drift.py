"""How far a plan's latents have drifted from the uncached ones, step by step along the trajectory."""

import torch
from tqdm import tqdm

from harmonica.errors import UserError
from harmonica.executor import Planned
from harmonica.models import get_model
from harmonica.plan import Plan, all_compute
from harmonica.samplers import make_sampler
from harmonica.sampling import StepSeeds, begin, denoise, with_prior_noise


def measure(plans: dict[str, Plan], images: int = 64) -> dict[str, list[float]]:
    """Mean squared error of x_t to the uncached run from the same noise, after every step: {name: [steps numbers]}.

    The plans must be of one model, sampler, number of steps, guidance scale and seed. Raises UserError otherwise.
    """
    settings = {(o.model, o.sampler, o.steps, o.cfg, o.seed) for o in (p.origin for p in plans.values())}
    if len(settings) != 1:
        raise UserError("only plans of one model, sampler, number of steps, guidance scale and seed drift comparably")
    origin = next(iter(plans.values())).origin
    model = get_model(origin.model)
    backbone, sampler = model.load_backbone(), make_sampler(origin.sampler, origin.steps)
    guided, noise, _ = begin(origin, backbone, model.guided_channels(origin.sampler), 0, images)
    seeds, channels = StepSeeds(origin.seed, 0, images), noise.shape[1]

    @torch.inference_mode()
    def latents(plan: Plan) -> list[torch.Tensor]:
        policy, seen = Planned(backbone, plan), []

        def output(x, s):
            seen.append(x[:, :channels])
            return guided(x, sampler.timesteps[s], policy.at(s))

        own = with_prior_noise(sampler, plan, noise)
        seen.append(denoise(own.begin(noise), own, output, seeds=seeds)[:, :channels])
        policy.finish()
        return seen[1:]

    plain = latents(all_compute(origin, len(backbone.shape.branches)))
    out = {}
    for name, plan in tqdm(plans.items(), desc="drift", mininterval=5):
        out[name] = [float((a - b).square().mean()) for a, b in zip(latents(plan), plain, strict=True)]
    return out
