"""Benchmarks of the speed and memory targets. Both sides of a ratio run interleaved in one process; one line per
case gives medians, the ratio, and the quartiles of the rounds' ratios."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harmonica.backbones.base import Backbone
from harmonica.backbones.dit import DiT
from harmonica.backbones.layers import in_precision
from harmonica.evaluation.statistics import speedup
from harmonica.execution import Batch, Guided, Plain, Planned, Policy, Run, run
from harmonica.models import get_model
from harmonica.models.random_weights import random_model
from harmonica.plan import FORECAST, REUSE, SPAN_FORECAST, Plan, Protocol, all_compute, cache_bytes, theoretical_speedup
from harmonica.runtimes.compiled import Compiled
from harmonica.runtimes.compiled_branches import CompiledBranches
from harmonica.runtimes.cuda_graph import CudaGraph
from harmonica.samplers import make_sampler
from harmonica.sharing import shipped_plans
from harmonica.training import Recipe, iepo
from harmonica.training.logits import Logits
from harmonica.training.sdt import trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.devices import default_device
from harmonica.utils.memory import Peak
from harmonica.utils.precision import dtype_of, products

# DiT's published sizes at 256×256: width, blocks, heads
SIZES = {"DiT-S/2": (384, 12, 6), "DiT-B/2": (768, 12, 12), "28 narrow blocks": (16, 28, 2)}
ON_CPU = ("DiT-S/2", "DiT-B/2")  # at 256×256, float32
ON_GPU = ("dit-xl-2-256", "dit-xl-2-512", "pixart-alpha-256", "pixart-alpha-1024")  # in half precision
WANTED = {25: 0.99, 50: 0.98, 75: 0.97}  # of the theoretical speed-up, on a CPU, by percentage reused


@dataclass(frozen=True)
class Line:
    """One case: two sides, and their ratio."""

    suite: str
    case: str
    this: str  # what each side is
    that: str
    this_value: float
    that_value: float
    unit: str
    ratio: float
    low: float  # the quartiles of the rounds' ratios
    high: float
    says: str = ""

    def __str__(self) -> str:
        return (
            f"{self.case:34} {self.this} {self.this_value:.4g} {self.unit}, {self.that} {self.that_value:.4g} "
            f"{self.unit}: ratio {self.ratio:.3f} ({self.low:.3f} … {self.high:.3f}){self.says and '; ' + self.says}"
        )

    def record(self) -> dict:
        return asdict(self)


def interleaved(sides: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each side in every round, run in turn; one warm-up round is not counted."""
    times: dict[Any, list[float]] = {name: [] for name in sides}
    for r in range(rounds + 1):
        for name in sides if r % 2 else reversed(sides):
            started = time.perf_counter()
            sides[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if r:
                times[name].append(time.perf_counter() - started)
    return times


def compared(
    suite: str, case: str, names: tuple[str, str], times: tuple[list[float], list[float]], factor=1.0, says=None
):
    """A line of (slow side, fast side): how many times faster the second is, divided by `factor`."""
    ratio, low, high = (x / factor for x in speedup(*times))
    slow, fast = (statistics.median(t) for t in times)
    return Line(suite, case, *names, slow, fast, "s", ratio, low, high, says(ratio) if says else "")


def config_of(name: str) -> dict:
    """The diffusers configuration of a DiT of that size at 256×256."""
    width, blocks, heads = SIZES[name]
    return dict(
        num_attention_heads=heads, attention_head_dim=width // heads, num_layers=blocks, in_channels=4, out_channels=8,
        patch_size=2, sample_size=32, num_embeds_ada_norm=1000, norm_eps=1e-6,
    )  # fmt: skip


def random_backbone(name: str, precision: str = "float32"):
    """A model of the suite, or a DiT of that size, at its true shape with small random weights."""
    torch.manual_seed(0)
    model = DiT(config_of(name), name, original=True) if name in SIZES else random_model(get_model(name))
    model.eval().requires_grad_(False)
    for p in model.parameters():
        p.normal_(std=0.02)
    return in_precision(model.to(default_device()), dtype_of(precision))


@dataclass
class Setting:
    """What a case samples: a model with random weights, `batch` images from noise under DDIM."""

    title: str
    precision: str
    backbone: Backbone
    protocol: Protocol
    batch: Batch

    @staticmethod
    def of(name: str, precision: str, batch: int, steps: int, cfg: float = 1.0) -> "Setting":
        backbone = random_backbone(name, precision)
        labels = torch.zeros(batch, dtype=torch.long, device=backbone.device)
        noise = torch.randn(batch, *backbone.latent_shape, device=backbone.device)
        title = name if precision == "float32" else f"{name} {precision}"
        return Setting(title, precision, backbone, Protocol(name, "ddim", steps, cfg), Batch(noise, labels))

    @property
    def on_gpu(self) -> bool:
        return self.batch.noise.is_cuda

    @property
    def branches(self) -> int:
        return len(self.backbone.layout.branches)

    @property
    def uncached(self) -> Plan:
        return all_compute(self.protocol, self.branches)

    def run(self, policy: Policy) -> Callable[[], torch.Tensor]:
        sampled = Run(self.backbone, self.uncached, self.batch.labels, policy)

        def once() -> torch.Tensor:
            with products(self.precision):
                return sampled(self.batch.noise)

        return once

    def recorded(self, policy: Policy) -> Callable[[], torch.Tensor]:
        """On a GPU as one CUDA graph, to avoid waiting for Python; on a CPU unchanged."""
        if not self.on_gpu:
            return self.run(policy)
        with products(self.precision):
            graph = CudaGraph(Run(self.backbone, self.uncached, self.batch.labels, policy), self.batch.noise)
        return lambda: graph(self.batch.noise)


def settings(sizes: tuple[str, ...] = (), **more) -> Iterator[Setting]:
    """The settings of this device's models, or of those requested."""
    on_gpu = default_device().type == "cuda"
    for name in sizes or (ON_GPU if on_gpu else ON_CPU):
        of_name = ("float16", "tf32") if name == ON_GPU[0] else ("float16",)
        for precision in of_name if on_gpu else ("float32",):
            yield Setting.of(name, precision, **more)


def scattered(rng: np.random.Generator, steps: int, branches: int, percent: float) -> Plan:
    """A plan that reuses this percentage of all branches, at random places after the first step."""
    actions = np.zeros((steps, branches), np.uint8)
    at = rng.choice((steps - 1) * branches, round(steps * branches * percent / 100), replace=False)
    actions[1 + at // branches, at % branches] = REUSE
    return Plan(actions, Protocol("bench", "ddim", steps, 1.0))


def in_whole_steps(steps: int, branches: int, percent: float) -> Plan:
    """A plan that reuses this percentage of all branches in whole steps, as FORA does."""
    whole = np.zeros((steps, branches), np.uint8)
    whole[[s for s in range(steps) if s * percent // 100 != (s + 1) * percent // 100 and s]] = REUSE
    whole[-1] = REUSE if 100 * (whole != 0).mean() < percent - 1e-9 else whole[-1]
    return Plan(whole, Protocol("bench", "ddim", steps, 1.0))


def in_forecast_steps(steps: int, branches: int, percent: float, action: int) -> Plan:
    """The same with linear forecasts in place of reuse, of every branch or of the last block's output."""
    reusing = in_whole_steps(steps, branches, percent).actions
    weights = np.zeros((steps, 1, 2), np.float32)
    for s in np.flatnonzero(reusing[:, 0]):
        weights[s, 0] = (2, -1) if (reusing[:s, 0] == 0).sum() > 1 else (1, 0)
    return Plan(np.where(reusing, action, 0).astype(np.uint8), Protocol("bench", "ddim", steps, 1.0), weights=weights)


def some_plans(branches: int, steps: int) -> Iterator[tuple[str, int, Plan]]:
    """Plans that reuse 25, 50, 75 % of branches, at random and in whole steps; and that forecast 75 %."""
    rng = np.random.default_rng(0)
    for percent in WANTED:
        yield "random", percent, scattered(rng, steps, branches, percent)
        yield "FORA-like", percent, in_whole_steps(steps, branches, percent)
    yield "forecasts of branches", 75, in_forecast_steps(steps, branches, 75, FORECAST)
    yield "forecasts of the last block", 75, in_forecast_steps(steps, branches, 75, SPAN_FORECAST)


def inference(rounds: int, sizes: tuple[str, ...] = (), batch: int = 8, steps: int = 8) -> Iterator[Line]:
    """Real over theoretical speed-up: random weights at true shapes, without guidance, `batch` images."""
    for case in settings(sizes, batch=batch, steps=steps):
        backbone, wanted = case.backbone, dict.fromkeys(WANTED, 0.95) if case.on_gpu else WANTED
        plans = {(kind, percent): plan for kind, percent, plan in some_plans(case.branches, steps)}
        sides: dict[Any, Plan] = {"full": case.uncached, **plans}
        times = interleaved({key: case.recorded(Planned(backbone, plan)) for key, plan in sides.items()}, rounds)
        for (kind, percent), plan in plans.items():
            theory = theoretical_speedup(plan, backbone.layout)

            def says(ratio: float, theory=theory, percent=percent, wanted=wanted) -> str:
                return f"real/theory {ratio:.2f} of {theory:.2f}x, CUR {percent} %, target {wanted[percent]}"

            pair = times["full"], times[kind, percent]
            name = f"{case.title}, {kind}, {percent} %"
            yield compared("inference", name, ("uncached", "cached"), pair, theory, says)


def diffusers_dit(config: dict):
    """diffusers' DiT with random weights; as in a trained one, all blocks embed time and label alike."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(**config).eval().requires_grad_(False)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return model


def plain(rounds: int, sizes: tuple[str, ...] = (), batch: int = 4, steps: int = 4) -> Iterator[Line]:
    """Uncached guided sampling of DiTs against diffusers' own class and scheduler, on the same weights."""
    from diffusers import DDIMScheduler

    for case in settings(sizes, batch=batch, steps=steps, cfg=1.5):
        own, noise, labels = case.backbone, case.batch.noise, case.batch.labels
        if not isinstance(own, DiT):
            continue
        theirs = diffusers_dit(own.config).to(own.device, own.dtype)
        own.load_weights(theirs.state_dict())
        both = torch.cat([labels, torch.full_like(labels, own.conditioning.null)])
        scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)

        @torch.inference_mode()
        def pipeline(theirs=theirs, noise=noise, both=both, scheduler=scheduler) -> None:
            scheduler.set_timesteps(steps)
            x = noise
            for t in scheduler.timesteps:
                two = torch.cat([x, x]).to(theirs.dtype)
                out = theirs(two, timestep=t.expand(len(both)).to(x.device), class_labels=both).sample
                cond, null = out[:, :4].float().chunk(2)
                x = scheduler.step(null + 1.5 * (cond - null), t, x).prev_sample

        suites: dict[str, Callable[[], Any]] = {"suite": case.run(Plain(own))}
        if case.on_gpu:
            suites["suite, CUDA graph"] = case.recorded(Plain(own))
        times = interleaved({"diffusers": pipeline} | suites, rounds)
        says = f"target {1.3 if case.on_gpu else 1.0}"
        for name in suites:
            sides = times["diffusers"], times[name]
            yield compared("plain", f"{case.title}, uncached", ("diffusers", name), sides, says=lambda _, w=says: w)


def compiled(rounds: int, sizes: tuple[str, ...] = (), batch: int = 8, steps: int = 8) -> Iterator[Line]:
    """torch.compile by step, by kind of branch, and the cache, each alone and together, at 50 % in whole steps; of the
    first model only, since each takes minutes. Compile time is reported separately."""
    for case in islice(settings(sizes, batch=batch, steps=steps), None if sizes else 1):
        backbone, plan = case.backbone, in_whole_steps(steps, case.branches, 50)
        branches, both = CompiledBranches(backbone), Compiled(backbone, plan)
        policies = {
            "uncached": Planned(backbone, case.uncached),
            "cached": Planned(backbone, plan),
            "branches": branches.policy(case.uncached),
            "branches + cached": (by_branch := branches.policy(plan)),
            "compiled": Compiled(backbone, case.uncached),
            "compiled + cached": both,
        }
        compiles = {
            "branches + cached": (by_branch, f"{len(set(backbone.layout.kinds))} kinds of branches"),
            "compiled + cached": (both, f"{len(set(both.kinds))} kinds of steps"),
        }
        took = {
            this: f"{_first_over_second(case.run(policy)):.1f} s to compile {kinds}; target above 1"
            for this, (policy, kinds) in compiles.items()
        }
        times = interleaved({name: case.recorded(policy) for name, policy in policies.items()}, rounds)
        theory = theoretical_speedup(plan, backbone.layout)
        for this, text in took.items():
            for other in ("uncached", "cached", alone := this.removesuffix(" + cached")):

                def says(ratio: float, by_theory=other == alone, text=text, theory=theory) -> str:
                    return f"real/theory {ratio / theory:.2f} of {theory:.2f}x; {text}" if by_theory else text

                yield compared("compiled", case.title, (other, this), (times[other], times[this]), says=says)


def _first_over_second(run: Callable[[], Any]) -> float:
    """The seconds by which the first call takes longer."""
    times = [time.perf_counter()]
    for _ in range(2):
        run()
        times.append(time.perf_counter())
    return 2 * times[1] - times[0] - times[2]


def training(rounds: int, sizes: tuple[str, ...] = (), batch: int = 4, steps: int = 4) -> Iterator[Line]:
    """A step of SDT against a plain forward pass, with and without checkpointing, and λ with shared prefixes against λ
    from full passes."""
    device = default_device()
    on_gpu = device.type == "cuda"
    for name in sizes or (ON_GPU[:1] if on_gpu else ON_CPU):
        for precision in ("tf32", "bfloat16") if on_gpu else ("float32",):
            case = Setting.of(name, precision, batch, steps, cfg=1.5)
            with products(precision):
                yield from _training(case, rounds, batch, steps)


def _training(case: Setting, rounds: int, batch: int, steps: int) -> Iterator[Line]:
    backbone, noise, sampler = case.backbone, case.batch.noise, make_sampler("ddim", steps)
    guided = Guided.by(case.protocol, backbone, case.batch.labels)
    recipe, weights = Recipe(rounds=1, batch=batch, lr=0.01), torch.ones(steps)

    def random_logits() -> Logits:
        g = torch.Generator().manual_seed(0)
        return Logits.random(steps, case.branches, range(1, steps), recipe, g, noise.device)

    def walk(checkpointing: bool) -> Callable[[], Any]:
        logits, start, soft = random_logits(), Start(guided, noise), Soft(backbone, checkpointing=checkpointing)
        return lambda: trajectory([start], sampler, logits, [soft], weights, 1e-7, 0.1)

    plain_side = case.run(Plain(backbone))
    times = interleaved({"plain": plain_side, "SDT": walk(False), "SDT, checkpointed": walk(True)}, rounds)
    passes = {name: [v / steps for v in t] for name, t in times.items()}
    for name in ("SDT", "SDT, checkpointed"):
        # the first step of a trajectory only fills the cache: it is one plain pass
        step = [(v - p) / (steps - 1) for v, p in zip(times[name], passes["plain"], strict=True)]
        yield compared("training", f"{case.title}, {name}", ("a step", "plain pass"), (step, passes["plain"]), 1.0,
                       lambda ratio: f"{ratio:.2f} plain passes/step, target 3.1")  # fmt: skip
    logits = random_logits()
    shared = interleaved({"λ": lambda: iepo.official(guided, sampler, logits, Soft(backbone), 0.1, noise),
                          "plain": plain_side}, max(1, rounds // 2))  # fmt: skip
    whole = [steps * v for v in shared["plain"]]  # T passes of the full trajectory, as released
    yield compared("training", f"{case.title}, λ of {steps} steps", ("T passes", "shared"), (whole, shared["λ"]), 1.0,
                   lambda ratio: f"λ takes {1 / ratio:.2f} of the released code's passes")  # fmt: skip


def memory(rounds: int) -> Iterator[Line]:
    """The cache of plans like HarmoniCa's against storing every branch, predicted and measured, on a narrow DiT with
    the 56 branches of DiT-XL/2."""
    backbone = random_backbone("28 narrow blocks")
    branches, steps, batch = len(backbone.layout.branches), 20, 8
    start = Batch.of(backbone, 0, 0, batch)
    rng, everything = np.random.default_rng(0), backbone.layout.stream_elements * branches * batch * 2 * 4
    for percent in (22.86, 37.5):  # the paper's ratios at 10 and 20 steps
        plan = scattered(rng, steps, branches, percent).with_protocol(cfg=1.5)
        policy = Planned(backbone, plan)
        run(backbone, plan, start, policy)
        measured, predicted = policy.cache.peak_bytes, cache_bytes(plan, backbone.layout, batch=batch)
        ratio = measured / everything
        says = f"predicted {predicted / 1e6:.4g} MB, target 0.6"
        yield Line("memory", f"56 branches, CUR {plan.cur:.0f} %", "measured", "every branch", measured / 1e6,
                   everything / 1e6, "MB", ratio, ratio, ratio, says)  # fmt: skip


def metrics(rounds: int, samples: int = 50_000, references: int = 10_000, width: int = 2048) -> Iterator[Line]:
    """The metrics of a row at the paper's size, on random features: memory of precision and recall, and what intervals
    take beside the metrics."""
    from harmonica.evaluation.distances import Gaussian
    from harmonica.evaluation.features.base import Features
    from harmonica.evaluation.metrics import Evidence, block_means, measure
    from harmonica.evaluation.references import Reference

    rng = np.random.default_rng(0)
    real = rng.standard_normal((references, width), dtype=np.float32)
    sets = [rng.standard_normal((samples, width), dtype=np.float32) for _ in range(2)]
    logits = rng.standard_normal((samples, 1008), dtype=np.float32)
    reference = Reference(Gaussian.of(real), Gaussian.of(real), real)
    own, uncached = (Evidence(Features(x, x, logits), reference) for x in sets)
    own = replace(own, uncached=uncached)
    peak, started = Peak(), time.perf_counter()
    _ = own.inside
    seconds = time.perf_counter() - started
    used = peak.megabytes() / 1e3
    case = f"precision/recall {samples} × {references} × {width}"
    yield Line("metrics", case, "peak", "target", used, 4.0, "GB", used / 4, used / 4, used / 4, f"{seconds:.0f} s")
    started = time.perf_counter()
    measure(own)
    values = seconds + time.perf_counter() - started
    started = time.perf_counter()
    block_means(own)
    intervals = time.perf_counter() - started
    case, ratio = f"intervals {samples} × {width}", intervals / values
    yield Line("metrics", case, "intervals", "metrics", intervals, values, "s", ratio, ratio, ratio, "target 0.1")


def startup(rounds: int, name: str = "dit-xl-2-256", blocks: int | None = None) -> Iterator[Line]:
    """Loading a backbone at its true size: taking over the file's tensors against copying them into random ones; and a
    whole process that makes one image under a shipped plan."""
    from safetensors.torch import save_file

    from harmonica.models.loading import load_weights, new_backbone
    from harmonica.models.random_weights import build_backbone

    model, device = get_model(name), default_device()
    config = model.config | {"num_layers": blocks or model.depth}
    with tempfile.TemporaryDirectory() as folder:
        save_file(diffusers_dit(config).state_dict(), Path(folder) / "diffusion_pytorch_model.safetensors")

        def taken_over() -> Backbone:
            with torch.device("meta"):
                backbone = new_backbone(model, config)
            return load_weights(backbone, Path(folder), model.title, device).to(device)

        def copied() -> Backbone:
            backbone = build_backbone(model, blocks).to(device)
            backbone.load_state_dict(taken_over().state_dict())
            return backbone

        times = interleaved({"copied": copied, "taken over": taken_over}, rounds)
    fewer = f", {blocks} blocks" if blocks else ""
    names, says = ("copied into random weights", "taken over"), "target of the second 5 s"
    yield compared("startup", f"{name}{fewer}", names, (times["copied"], times["taken over"]), says=lambda _: says)
    yield _one_image(rounds)


def _one_image(rounds: int, target: float = 6.0) -> Line:
    def process() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = ["sample", str(shipped_plans.paths()[0]), "--images", "1", "-o", folder]
            subprocess.run([sys.executable, "-m", "harmonica", *command], check=True, capture_output=True)

    seconds = interleaved({"process": process}, rounds)["process"]
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    case, ratios = "harmonica sample, one image", (middle / target, low / target, high / target)
    return Line("startup", case, "process", "target", middle, target, "s", *ratios)


def attention(rounds: int, sizes: tuple[str, ...] = (), batch: int = 8, steps: int = 2) -> Iterator[Line]:
    """Sampling in TF32, whose attention runs the kernels of float16, against exact float32 products: on a GPU only."""
    if default_device().type == "cpu":
        return
    for name in sizes or ON_GPU[:2]:
        cases = [Setting.of(name, precision, batch, steps) for precision in ("float32", "tf32")]
        times = interleaved({c.precision: c.run(Planned(c.backbone, c.uncached)) for c in cases}, rounds)
        yield compared("attention", name, ("float32", "tf32"), (times["float32"], times["tf32"]))


SUITES = {
    "inference": inference, "plain": plain, "compiled": compiled, "training": training, "memory": memory,
    "metrics": metrics, "startup": startup, "attention": attention,
}  # fmt: skip
