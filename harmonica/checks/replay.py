"""Replay of a reference trace: outputs of the published code on a small DiT, recomputed by this code.

A trace is a safetensors file with weights under the original DiT's parameter names, inputs, recorded outputs, and the
settings as JSON in its metadata (`config`). HarmoniCa and Learning-to-Cache traces are distinguished by their keys.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harmonica.backbones.dit import DiT
from harmonica.backbones.layers import in_precision
from harmonica.execution import Guided, Plain, Run
from harmonica.models.convert import original_config, original_to_diffusers
from harmonica.plan import LIMIT, Plan, Protocol, Router, all_compute
from harmonica.samplers import make_sampler
from harmonica.training import iepo
from harmonica.training.learning_to_cache import pair
from harmonica.training.logits import Logits, Part
from harmonica.training.sdt import trajectory
from harmonica.training.settings import routed_steps
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils import UserError
from harmonica.utils.devices import default_device
from harmonica.utils.precision import dtype_of, products

# By precision. Losses compare a student with a close teacher, so in bfloat16 rounding dominates the smallest.
TOLERANCES = {
    "float32": {"steps": 0.0, "latents": 1e-4, "lambda": 1e-3, "losses": 1e-3, "logits": 1e-3},
    "tf32": {"steps": 0.0, "latents": 0.05, "lambda": 1e-3, "losses": 0.05, "logits": 1e-3},
    "bfloat16": {"steps": 0.0, "latents": 0.25, "lambda": 1e-3, "losses": 1.0, "logits": 1e-3},
    "float16": {"steps": 0.0, "latents": 0.05, "lambda": 1e-3, "losses": 0.05, "logits": 1e-3},
}
RELATIVE = ("lambda", "losses")


@dataclass(frozen=True)
class Check:
    """The largest error of one recorded quantity; relative for λ and losses, absolute for the rest."""

    quantity: str
    kind: str
    error: float
    precision: str = "float32"

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision][self.kind]

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # NaN does not pass


def check(quantity: str, kind: str, own, recorded) -> Check:
    """Compare arrays of one shape. Relative errors are by entry, or by a thousandth of the largest entry for entries
    below it. Raises UserError if the shapes differ."""
    own, recorded = (np.asarray(x.cpu() if isinstance(x, Tensor) else x, np.float64) for x in (own, recorded))
    if own.shape != recorded.shape:
        raise UserError(f"the trace's {quantity} has shape {recorded.shape}, here it is {own.shape}")
    gap = np.abs(own - recorded)
    if kind in RELATIVE and gap.size:
        size = np.abs(recorded)
        gap = gap / np.maximum(size, max(1e-3 * size.max(), 1e-30))
    return Check(quantity, kind, float(gap.max(initial=0.0)))


class Trace:
    """A trace's tensors, settings and backbone, in this precision and float32. Raises UserError if it is no trace."""

    def __init__(self, path: str | Path, precision: str = "float32"):
        device = default_device()
        try:
            with safe_open(path, "pt") as f:
                self.tensors = {k: f.get_tensor(k).to(device) for k in f.keys()}
                self.config = json.loads((f.metadata() or {})["config"])
            weights = {k.removeprefix("weights."): v for k, v in self.tensors.items() if k.startswith("weights.")}
            self.backbone = DiT(original_config(weights, self.config["heads"]), Path(path).stem, original=True)
            self.backbone.load_weights(original_to_diffusers(weights)).to(device)
            self.precise = copy.deepcopy(self.backbone)
            in_precision(self.backbone, dtype_of(precision))
            self.steps = int(self.config["steps"])
            self.protocol = Protocol("trace", "ddim", self.steps, float(self.config["cfg"]))
            self.threshold, self.beta, self.lr = (float(self.config[k]) for k in ("thres", "l1", "lr"))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as e:
            raise UserError(f"{path} is not a reference trace ({type(e).__name__}: {e})") from None
        self.sampler = make_sampler("ddim", self.steps)

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise UserError(f"the trace has no {key}")
        return self.tensors[key]

    def guided(self, labels: Tensor, precise: bool = False) -> Guided:
        return Guided.by(self.protocol, self.precise if precise else self.backbone, labels)

    def sample(self, plan: Plan) -> Tensor:
        """Latents from the trace's noise and labels under a plan."""
        return Run(self.backbone, plan, self["labels"])(self["z"])

    def rows(self, key: str) -> Tensor:
        """A recorded table, indexed by t, in execution order."""
        return self[key].flip(0)


def replay(path: str | Path, precision: str = "float32") -> Iterator[Check]:
    """Check every recorded quantity of the trace on this device, in the order of computation, with the branches in this
    precision and λ in float32, as in training."""
    with products(precision):
        for c in _replay(Trace(path, precision)):
            yield replace(c, precision=precision)


def _replay(t: Trace) -> Iterator[Check]:
    labels, null = t["labels"], t.backbone.conditioning.null
    yield check("timestep_map", "steps", sorted(t.sampler.timesteps), t["timestep_map"])
    two = torch.cat([labels, torch.full_like(labels, null)])
    both = Guided(t.backbone, two, cfg=1.0, channels=t.backbone.in_channels)
    with torch.no_grad():
        plain = both(torch.cat([t["z"]] * 2), 500, Plain(t.backbone))
    yield check("single_forward_t500", "latents", plain, t["single_forward_t500"])
    uncached = t.sample(all_compute(t.protocol, len(t.backbone.layout.branches)))
    yield check("ddim_uncached", "latents", uncached, t["ddim_uncached"])
    is_harmonica = "lambda_random_router" in t
    logits = t.rows("router_logits").cpu().numpy().copy()
    if not is_harmonica:  # only even countdown indices are routed
        logits[[s for s in range(t.steps) if (t.steps - 1 - s) % 2]] = LIMIT
    plan = Router(logits, t.protocol).plan(t.threshold)
    yield check(f"ddim_cached (CUR {plan.cur:.1f} %)", "latents", t.sample(plan), t["ddim_cached"])
    yield from (_harmonica if is_harmonica else _learning_to_cache)(t)


def _harmonica(t: Trace) -> Iterator[Check]:
    routed, device = range(1, t.steps), t.backbone.device

    def measure(logits: Logits, labels: Tensor, noise: Tensor, soft: Soft) -> Tensor:
        # λ passes start with an empty cache, the trajectory does not
        guided = t.guided(labels, precise=True)
        with products("float32"):
            return iepo.refreshed(guided, t.sampler, logits, t.threshold, noise, None, soft)

    soft = Soft(t.backbone)
    weights = measure(Logits(t.rows("router_logits"), routed, t.lr, device=device), t["labels"], t["z"], soft)
    yield check("lambda_random_router", "lambda", weights[1:], t.rows("lambda_random_router"))
    logits = Logits(t.rows("train.router_init"), routed, t.lr, device=device)
    for epoch in range(int(t.config["epochs"])):
        labels, noise = t[f"train.labels_{epoch}"], t[f"train.noise_{epoch}"]
        weights = measure(logits, labels, noise, soft)
        yield check(f"train.lambda_{epoch}", "lambda", weights[1:], t.rows(f"train.lambda_{epoch}"))
        start = Start(t.guided(labels), noise)
        (x0,), losses = trajectory([start], t.sampler, logits, [soft], weights, t.beta, t.threshold)
        recorded = t["train.losses"][t["train.losses"][:, 0] == epoch]  # epoch, t, data, λ, Σr, total
        for column, name in ((2, "data"), (4, "ratios"), (5, "total")):
            own = [float(getattr(loss, name)) for loss in losses]
            yield check(f"train.losses_{epoch}: {name}", "losses", own, recorded[:, column])
        yield check(f"train.x0_{epoch}", "latents", x0, t[f"train.x0_{epoch}"])
        yield check(f"train.router_after_{epoch}", "logits", logits.numpy(), t.rows(f"train.router_after_{epoch}"))


def _learning_to_cache(t: Trace) -> Iterator[Check]:
    routed = routed_steps(t.steps)
    logits, own = Logits(t.rows("train.router_init"), routed, t.lr, device=t.backbone.device), []
    for k in t["train.losses"][:, 0].int().tolist():
        s = t.steps - int(t[f"train.t_{k}"].flatten()[0])  # noised at countdown index t, routed at t − 1
        if s not in routed:
            raise UserError(f"the trace's train.t_{k} is not an odd index below {t.steps}")
        x0, y, noise = (t[f"train.{x}_{k}"] for x in ("x", "y", "noise"))
        teacher, student = pair(t.backbone, t.sampler, logits, s, x0, y, noise)
        loss = logits.descend([s], [Part.of(1.0, teacher, student)], 1.0, t.beta)
        own.append([float(v) for v in loss])
    for column, name in ((2, "data"), (3, "ratios"), (4, "total")):  # step, t, data, Σr, total
        yield check(f"train.losses: {name}", "losses", [row[column - 2] for row in own], t["train.losses"][:, column])
    rows = list(routed)
    yield check("train.router_after", "logits", logits.numpy()[rows], t.rows("train.router_after")[rows])
