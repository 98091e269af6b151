"""Wall time of the denoising loop, all plans interleaved so that ratios are robust on a noisy machine."""

import random
import statistics
import time

from tqdm import tqdm

from harmonica.execution import Batch, Planned, run
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import Plan
from harmonica.utils import UserError


def measure(plans: dict[str, Plan], batch: int = 8, rounds: int = 7, seed: int = 0) -> dict[str, dict]:
    """Seconds of one batch under each plan: {name: {"latency_s": median, "rounds_s": every measurement}}.

    The guided loop from seeds (and embedded captions) to latents is timed, without the decoder. Every round runs every
    plan once, in a new random order; a first round is not counted. The paper measures at batch 8, too. Raises UserError
    for less than one round or image.
    """
    if rounds < 1 or batch < 1:
        raise UserError(f"latency needs at least one round and one image, got {rounds} and {batch}")
    names = {p.protocol.model for p in plans.values()}
    backbones = {name: load_backbone(get_model(name)) for name in names}
    times: dict[str, list[float]] = {name: [] for name in plans}
    order = list(plans)
    rng = random.Random(seed)
    for r in tqdm(range(rounds + 1), desc="latency", mininterval=5):
        rng.shuffle(order)
        for name in order:
            plan = plans[name]
            backbone = backbones[plan.protocol.model]
            policy = Planned(backbone, plan)
            started = time.perf_counter()
            latents = run(backbone, plan, Batch.of(backbone, seed, 0, batch), policy)
            latents.flatten()[0].item()  # waits for the device
            if r:
                times[name].append(time.perf_counter() - started)
    return {name: {"latency_s": statistics.median(t), "rounds_s": t} for name, t in times.items()}
