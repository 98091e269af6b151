"""Wall time of the denoising loop, all plans interleaved so that ratios are robust on a noisy machine."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from tqdm import tqdm

from harmonica.backbones.base import Backbone
from harmonica.compression import Compression
from harmonica.evaluation.generate import batch_size
from harmonica.evaluation.records import in_precision
from harmonica.evaluation.statistics import settled
from harmonica.execution import Batch, Policy, Run
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
    policy: Callable[[Backbone, Plan], Policy] | None = None,
    bases: Sequence[str] = (),
) -> dict[str, dict]:
    """Seconds of one batch under each plan: {name: {"latency_s": median, "rounds_s": every measurement, "batch": n}}.

    `precision` is one, or one of each model; `compressions`, by the plan's name, are what a plan runs on if not on the
    model itself. `policy`, called once a plan, makes what executes it (`runtimes.compiled.Compiled`), by default step
    by step; it compiles in a run that is not counted. The first plan of each model is also timed in the precisions
    `bases`, named as `records.in_precision` says.
    The guided loop from noise and conditions on the device to latents is timed, without text encoder and decoder. Every
    round runs every plan once, in a new random order, after a run of each that is not counted (on a CPU, step by step,
    of one a model). With `max_rounds`, rounds go on until the quartiles of every plan's speed-up over its base
    (`base_of`) are within `tolerance` of it, or until so many rounds are done; on a busy machine more rounds do not
    narrow them. The paper measures at batch 8, too; if a plan of a model does not fit into `memory` bytes, all of
    that model are timed with fewer images. Raises UserError for less than one round or image.
    """
    if rounds < 1 or batch < 1:
        raise UserError(f"latency needs at least one round and one image, got {rounds} and {batch}")
    names = {p.protocol.model for p in plans.values()}
    by_model = precision if isinstance(precision, dict) else dict.fromkeys(names, precision)
    fitting = {
        name: min(batch_size(p, batch, by_model[name], memory) for p in plans.values() if p.protocol.model == name)
        for name in names
    }
    base = {name: next(n for n, p in plans.items() if p.protocol.model == name) for name in names}
    of = {n: base_of(n, plans) for n in plans}
    on = {n: _On(p.protocol.model, by_model[p.protocol.model], (compressions or {}).get(n)) for n, p in plans.items()}
    for name, precision in product(names, bases):
        if precision != by_model[name]:
            again = in_precision(base[name], precision)
            plans, on = plans | {again: plans[base[name]]}, on | {again: _On(name, precision, None)}
    backbones = {o: o.load() for o in set(on.values())}
    policies = {n: policy(backbones[on[n]], p) for n, p in plans.items()} if policy else {}
    times: dict[str, list[float]] = {name: [] for name in plans}

    def seconds(name: str) -> float:
        plan = plans[name]
        with products(on[name].precision):
            return once(plan, backbones[on[name]], fitting[plan.protocol.model], seed, policies.get(name))

    on_a_cpu = all(b.device.type == "cpu" for b in backbones.values())  # where only a graph has a slow first run
    for name in list({on[n]: n for n in plans}.values() if on_a_cpu and not policy else plans):
        seconds(name)
    order = list(plans)
    rng = random.Random(seed)
    last = max(rounds, max_rounds or 0)
    for r in tqdm(range(last), desc="latency", mininterval=5):
        if r >= rounds and all(settled(times[own], times[n], tolerance) for n, own in of.items()):
            break
        rng.shuffle(order)
        for name in order:
            times[name].append(seconds(name))
    found = {
        name: {"latency_s": statistics.median(t), "rounds_s": t, "batch": fitting[plans[name].protocol.model]}
        for name, t in times.items()
    }
    rivals = {in_precision(base[name], p): base[name] for name, p in product(names, bases)}
    return found | {name: found.get(name, found[own]) for name, own in rivals.items()}


def base_of(name: str, plans: dict[str, Plan]) -> str:
    """The plan that a plan's speed-up is over: the first one of its protocol, or where it is alone, as one of fewer
    steps may be, the first one of its model."""
    own = plans[name].protocol
    alike = [n for n, p in plans.items() if p.protocol == own]
    return alike[0] if len(alike) > 1 else next(n for n, p in plans.items() if p.protocol.model == own.model)


@dataclass(frozen=True)
class _On:
    """What a plan is timed on."""

    model: str
    precision: str
    compression: Compression | None

    def load(self) -> Backbone:
        own = load_backbone(get_model(self.model), self.precision)
        return self.compression.apply(own) if self.compression else own


def once(plan: Plan, backbone, images: int, seed: int, policy: Policy | None = None) -> float:
    """Seconds of one batch under a plan, executed by `policy`, by default step by step."""
    start = Batch.of(backbone, seed, 0, images)
    timed = Run(backbone, plan, start.labels, policy)
    wait_for(start.noise)
    started = time.perf_counter()
    wait_for(timed(start.noise, start.seeds))
    return time.perf_counter() - started


def wait_for(x) -> None:
    """Return when the device has computed a tensor."""
    x.flatten()[0].item()
