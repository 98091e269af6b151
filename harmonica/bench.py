"""Benchmarks: what is promised of speed and memory, measured. Both sides of a ratio run interleaved in one process, and
a line a case gives medians, the ratio, and the range in which half of the rounds' ratios lie."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch

from harmonica import iepo
from harmonica.backbones.dit import DiT
from harmonica.backbones.parts import sincos_position
from harmonica.devices import default_device
from harmonica.executor import Plain, Planned, Soft
from harmonica.learning import Recipe
from harmonica.logits import Logits
from harmonica.memory import Peak
from harmonica.plan import REUSE, Origin, Plan, all_compute
from harmonica.samplers import make_sampler
from harmonica.sampling import Guided, sample
from harmonica.sdt import trajectory

# DiT's published sizes at 256×256: width, blocks, heads
SIZES = {"DiT-S/2": (384, 12, 6), "DiT-B/2": (768, 12, 12), "DiT-XL/2": (1152, 28, 16), "28 narrow blocks": (16, 28, 2)}
WANTED = {25: 0.99, 50: 0.98, 75: 0.97}  # of the theoretical speed-up, on a CPU, by the share that is reused


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


def interleaved(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in every round, one after the other; one round before is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
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
    """A line of (slow side, fast side): the ratio of their times, divided by `factor`."""
    ratios = [a / b / factor for a, b in zip(*times, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    ratio, medians = statistics.median(ratios), [statistics.median(t) for t in times]
    return Line(suite, case, *names, *medians, "s", ratio, low, high, says(ratio) if says else "")


def config_of(name: str) -> dict:
    """The diffusers configuration of a DiT of that size at 256×256."""
    width, blocks, heads = SIZES[name]
    return dict(
        num_attention_heads=heads, attention_head_dim=width // heads, num_layers=blocks, in_channels=4, out_channels=8,
        patch_size=2, sample_size=32, num_embeds_ada_norm=1000, norm_eps=1e-6,
    )  # fmt: skip


def random_dit(name: str) -> DiT:
    """A DiT of that published size at 256×256, its weights random and small."""
    torch.manual_seed(0)
    model = DiT(config_of(name), name, original=True).eval().requires_grad_(False)
    model.position.copy_(sincos_position(model.width, model.grid))
    for p in model.parameters():
        p.normal_(std=0.02)
    return model.to(default_device())


def scattered(rng: np.random.Generator, steps: int, branches: int, percent: float) -> Plan:
    """A plan that reuses so many percent of all branches, at random places behind the first step."""
    actions = np.zeros((steps, branches), np.uint8)
    at = rng.choice((steps - 1) * branches, round(steps * branches * percent / 100), replace=False)
    actions[1 + at // branches, at % branches] = REUSE
    return Plan(actions, Origin("bench", "ddim", steps, 1.0, "bench"))


def some_plans(branches: int, steps: int) -> Iterator[tuple[str, int, Plan]]:
    """Plans that reuse 25, 50 and 75 % of all, at random places and in whole steps (as FORA does)."""
    rng = np.random.default_rng(0)
    origin = Origin("bench", "ddim", steps, 1.0, "bench")
    for percent in WANTED:
        yield "random", percent, scattered(rng, steps, branches, percent)
        whole = np.zeros((steps, branches), np.uint8)
        whole[[s for s in range(steps) if s * percent // 100 != (s + 1) * percent // 100 and s]] = REUSE
        whole[-1] = REUSE if 100 * (whole != 0).mean() < percent - 1e-9 else whole[-1]
        yield "FORA-like", percent, Plan(whole, origin)


def inference(rounds: int, sizes=("DiT-S/2", "DiT-B/2"), batch: int = 8, steps: int = 8) -> Iterator[Line]:
    """Real over theoretical speed-up: random weights at true shapes, without guidance, `batch` images."""
    for size in sizes:
        backbone = random_dit(size)
        branches, device = len(backbone.shape.branches), backbone.device
        noise, labels = (
            torch.randn(batch, 4, 32, 32, device=device),
            torch.zeros(batch, dtype=torch.long, device=device),
        )
        guided, sampler = Guided(backbone, labels, 1.0, 3), make_sampler("ddim", steps)
        plans = {(kind, percent): plan for kind, percent, plan in some_plans(branches, steps)}
        full = all_compute(Origin("bench", "ddim", steps, 1.0, "bench"), branches)

        def run(plan: Plan, guided=guided, sampler=sampler, backbone=backbone, noise=noise) -> Callable[[], None]:
            return lambda: sample(guided, sampler, Planned(backbone, plan), noise)

        times = interleaved({"full": run(full)} | {key: run(plan) for key, plan in plans.items()}, rounds)
        for (kind, percent), plan in plans.items():
            theory = plan.theoretical_speedup(backbone.shape)

            def says(ratio: float, theory=theory, percent=percent) -> str:
                return f"real/theory {ratio:.2f} of {theory:.2f}x, CUR {percent} %, wanted {WANTED[percent]}"

            case = f"{size} 256, {kind}, {percent} %"
            sides = times["full"], times[kind, percent]
            yield compared("inference", case, ("uncached", "cached"), sides, theory, says)


def plain(rounds: int, sizes=("DiT-S/2", "DiT-B/2"), batch: int = 4, steps: int = 4) -> Iterator[Line]:
    """Uncached guided sampling against diffusers' DiTTransformer2DModel and DDIMScheduler on the same weights."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    for size in sizes:
        torch.manual_seed(0)
        theirs = DiTTransformer2DModel(**config_of(size)).eval().requires_grad_(False)
        first = theirs.transformer_blocks[0].norm1.emb.state_dict()
        for block in theirs.transformer_blocks:
            block.norm1.emb.load_state_dict(first)
        own = DiT(config_of(size), size).load_weights(theirs.state_dict()).to(default_device())
        theirs.to(own.device)
        labels = torch.zeros(batch, dtype=torch.long, device=own.device)
        noise, guided = torch.randn(batch, *own.latent_shape, device=own.device), Guided(own, labels, 1.5, 4)
        both = torch.cat([labels, torch.full_like(labels, own.null_label)])
        scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)

        @torch.inference_mode()
        def pipeline(theirs=theirs, noise=noise, both=both, scheduler=scheduler) -> None:
            scheduler.set_timesteps(steps)
            x = noise
            for t in scheduler.timesteps:
                out = theirs(torch.cat([x, x]), timestep=t.expand(len(both)).to(x.device), class_labels=both).sample
                cond, null = out[:, :4].chunk(2)
                x = scheduler.step(null + 1.5 * (cond - null), t, x).prev_sample

        def suite(own=own, guided=guided, noise=noise) -> None:
            sample(guided, make_sampler("ddim", steps), Plain(own), noise)

        times = interleaved({"diffusers": pipeline, "suite": suite}, rounds)
        says = f"wanted {1.3 if own.device.type == 'cuda' else 1.0}"
        sides = times["diffusers"], times["suite"]
        yield compared("plain", f"{size} 256, uncached", ("diffusers", "suite"), sides, says=lambda _, w=says: w)


def training(rounds: int, size: str = "DiT-S/2", batch: int = 4, steps: int = 4) -> Iterator[Line]:
    """A step of SDT against a plain forward pass, with and without checkpointing, and λ with shared prefixes against λ
    from whole passes."""
    backbone = random_dit(size)
    branches, device = len(backbone.shape.branches), backbone.device
    labels, noise = torch.zeros(batch, dtype=torch.long, device=device), torch.randn(batch, 4, 32, 32, device=device)
    guided, sampler = Guided(backbone, labels, 1.5, 3), make_sampler("ddim", steps)
    recipe, weights = Recipe(rounds=1, batch=batch, lr=0.01), torch.ones(steps)

    def walk(tokens: int) -> Callable[[], None]:
        logits = Logits.drawn(steps, branches, range(1, steps), recipe, torch.Generator().manual_seed(0), device)
        return lambda: trajectory(guided, sampler, logits, Soft(backbone, 0.1, {}, tokens), noise, weights, 1e-7)

    sides = {
        "plain": lambda: sample(guided, sampler, Plain(backbone), noise),
        "SDT": walk(10**9),
        "SDT, checkpointed": walk(0),
    }
    times = interleaved(sides, rounds)
    passes = {name: [v / steps for v in times[name]] for name in sides}
    for name in ("SDT", "SDT, checkpointed"):
        # the first step of a trajectory only fills the cache: it is one plain pass
        step = [(v - p) / (steps - 1) for v, p in zip(times[name], passes["plain"], strict=True)]
        yield compared("training", f"{size}, {name}", ("a step", "plain pass"), (step, passes["plain"]), 1.0,
                       lambda ratio: f"{ratio:.2f} plain passes a step, wanted 3.1")  # fmt: skip
    logits = Logits.drawn(steps, branches, range(1, steps), recipe, torch.Generator().manual_seed(0), device)
    shared = interleaved({"λ": lambda: iepo.official(guided, sampler, logits, Soft(backbone, 0.1), noise),
                          "plain": sides["plain"]}, max(1, rounds // 2))  # fmt: skip
    whole = [steps * v for v in shared["plain"]]  # T passes of the whole trajectory, as released
    yield compared("training", f"{size}, λ of {steps} steps", ("T passes", "shared"), (whole, shared["λ"]), 1.0,
                   lambda ratio: f"λ takes {1 / ratio:.2f} of the released code's passes")  # fmt: skip


def memory(rounds: int) -> Iterator[Line]:
    """The cache of plans like HarmoniCa's against storing every branch, predicted and measured, on a narrow DiT with
    the 56 branches of DiT-XL/2."""
    backbone = random_dit("28 narrow blocks")
    branches, steps, batch = len(backbone.shape.branches), 20, 8
    guided = Guided(backbone, torch.zeros(batch, dtype=torch.long, device=backbone.device), 1.5, 3)
    noise = torch.randn(batch, *backbone.latent_shape, device=backbone.device)
    rng, everything = np.random.default_rng(0), backbone.shape.stream_elements * branches * batch * 2 * 4
    for percent in (22.86, 37.5):  # the paper's ratios at 10 and 20 steps
        plan = scattered(rng, steps, branches, percent)
        policy = Planned(backbone, plan)
        sample(guided, make_sampler("ddim", steps), policy, noise)
        predicted = policy.plan.cache_bytes(backbone.shape, batch=batch)
        ratio = policy.peak_bytes / everything
        says = f"predicted {predicted / 1e6:.4g} MB, wanted 0.6"
        yield Line("memory", f"56 branches, CUR {policy.plan.cur:.0f} %", "measured", "every branch",
                   policy.peak_bytes / 1e6, everything / 1e6, "MB", ratio, ratio, ratio, says)  # fmt: skip


def metrics(rounds: int, samples: int = 50_000, references: int = 10_000, width: int = 2048) -> Iterator[Line]:
    """Precision and recall at the paper's size, on random features: seconds and peak memory."""
    from harmonica.metrics import precision_recall

    rng = np.random.default_rng(0)
    real, drawn = (rng.standard_normal((n, width), dtype=np.float32) for n in (references, samples))
    peak, started = Peak(), time.perf_counter()
    precision_recall(real, drawn)
    seconds = time.perf_counter() - started
    used = peak.megabytes() / 1e3
    case = f"precision/recall {samples} × {references} × {width}"
    yield Line("metrics", case, "peak", "wanted", used, 4.0, "GB", used / 4, used / 4, used / 4, f"{seconds:.0f} s")


SUITES = {"inference": inference, "plain": plain, "training": training, "memory": memory, "metrics": metrics}
