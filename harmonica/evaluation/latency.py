"""Wall time of the denoising loop, all plans interleaved so that ratios are robust on a noisy machine."""

import random
import statistics
import time

from tqdm import tqdm

from harmonica.compression import Compression
from harmonica.evaluation.generate import batch_size
from harmonica.evaluation.statistics import settled
from harmonica.execution import Batch, Run
from harmonica.models import get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import Plan
from harmonica.utils import UserError
from harmonica.utils.precision import products


def measure(
    plans: dict[str, Plan],
    batch: int = 8,
    rounds: int = 7,
    seed: int = 0,
    precision: str | dict[str, str] = "float32",
    memory: float | None = None,
    max_rounds: int | None = None,
    tolerance: float = 0.03,
    compressions: dict[str, Compression] | None = None,
) -> dict[str, dict]:
    """Seconds of one batch under each plan: {name: {"latency_s": median, "rounds_s": every measurement, "batch": n}}.

    `precision` is one, or one of each model; `compressions`, by the plan's name, are what a plan runs on if not on the
    model itself.
    The guided loop from noise and conditions on the device to latents is timed, without text encoder and decoder. Every
    round runs every plan once, in a new random order; a first round is not counted. With `max_rounds`, rounds go on
    until the quartiles of every plan's speed-up over the first plan of its model are within `tolerance` of it, or until
    so many rounds are done; on a busy machine more rounds do not narrow them. The paper measures at batch 8, too;
    if a plan of a model does not fit into `memory` bytes, all of that model are timed with fewer images. Raises
    UserError for less than one round or image.
    """
    if rounds < 1 or batch < 1:
        raise UserError(f"latency needs at least one round and one image, got {rounds} and {batch}")
    names = {p.protocol.model for p in plans.values()}
    by_model = precision if isinstance(precision, dict) else dict.fromkeys(names, precision)
    fitting = {
        name: min(batch_size(p, batch, by_model[name], memory) for p in plans.values() if p.protocol.model == name)
        for name in names
    }
    on = {n: (p.protocol.model, (compressions or {}).get(n)) for n, p in plans.items()}
    backbones = {}
    for name, compression in set(on.values()):
        own = load_backbone(get_model(name), by_model[name])
        backbones[name, compression] = compression.apply(own) if compression else own
    times: dict[str, list[float]] = {name: [] for name in plans}
    order = list(plans)
    rng = random.Random(seed)
    base = {name: next(n for n, p in plans.items() if p.protocol.model == name) for name in names}
    last = max(rounds, max_rounds or 0)
    for r in tqdm(range(last + 1), desc="latency", mininterval=5):
        if r > rounds and all(settled(times[base[p.protocol.model]], times[n], tolerance) for n, p in plans.items()):
            break
        rng.shuffle(order)
        for name in order:
            plan = plans[name]
            with products(by_model[plan.protocol.model]):
                seconds = once(plan, backbones[on[name]], fitting[plan.protocol.model], seed)
            if r:
                times[name].append(seconds)
    return {
        name: {"latency_s": statistics.median(t), "rounds_s": t, "batch": fitting[plans[name].protocol.model]}
        for name, t in times.items()
    }


def once(plan: Plan, backbone, images: int, seed: int) -> float:
    """Seconds of one batch under a plan."""
    start = Batch.of(backbone, seed, 0, images)
    timed = Run(backbone, plan, start.labels)
    wait_for(start.noise)
    started = time.perf_counter()
    wait_for(timed(start.noise, start.seeds))
    return time.perf_counter() - started


def wait_for(x) -> None:
    """Return when the device has computed a tensor."""
    x.flatten()[0].item()
