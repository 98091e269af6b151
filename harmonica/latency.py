"""Wall time of the denoising loop, all plans interleaved so that their ratios hold on a noisy machine."""

import random
import statistics
import time
from dataclasses import replace

from tqdm import tqdm

from harmonica.errors import UserError
from harmonica.models import get_model
from harmonica.plan import Plan


def measure(plans: dict[str, Plan], batch: int = 8, rounds: int = 7, seed: int = 0) -> dict[str, dict]:
    """Seconds of one batch under each plan: {name: {"latency_s": median, "rounds_s": every measurement}}.

    The guided loop from seeds (and embedded captions) to latents is timed, without the decoder. Every round runs every
    plan once, in an order drawn anew; one round before is not counted. The paper measures at batch 8, too.
    """
    from harmonica.executor import Planned
    from harmonica.samplers import make_sampler
    from harmonica.sampling import StepSeeds, begin, sample

    if rounds < 1 or batch < 1:
        raise UserError(f"latency needs at least one round and one image, not {rounds} and {batch}")
    names = {p.origin.model for p in plans.values()}
    loaded = {name: get_model(name).load_backbone() for name in names}

    def once(plan: Plan) -> float:
        o, backbone = plan.origin, loaded[plan.origin.model]
        channels = get_model(o.model).guided_channels(o.sampler)
        sampler, policy = make_sampler(o.sampler, o.steps), Planned(backbone, plan)
        started = time.perf_counter()
        guided, noise, _ = begin(replace(o, seed=seed), backbone, channels, 0, batch)
        x = sample(guided, sampler, policy, noise, StepSeeds(seed, 0, batch))
        x.flatten()[0].item()  # waits for the device
        return time.perf_counter() - started

    times: dict[str, list[float]] = {name: [] for name in plans}
    order = list(plans)
    rng = random.Random(seed)
    for r in tqdm(range(rounds + 1), desc="latency", mininterval=5):
        rng.shuffle(order)
        for name in order:
            seconds = once(plans[name])
            if r:
                times[name].append(seconds)
    return {name: {"latency_s": statistics.median(t), "rounds_s": t} for name, t in times.items()}
