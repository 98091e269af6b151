"""Peak memory of the paper scale's jobs, counted at true shapes: it fits into the configured budget, and the
predictions that batches and parts are derived from are neither too low nor much too high."""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from fake_gpu import GIB, Decided, backbone, batch, fake, half_reused

from harmonica.evaluation.generate import batch_size
from harmonica.execution import Guided, Plain, Run
from harmonica.experiments import config as configuration
from harmonica.models import get_model
from harmonica.models.loading import decoder
from harmonica.models.random_weights import build_autoencoder
from harmonica.plan.costs import SLACK, run_bytes
from harmonica.samplers import make_sampler
from harmonica.training import LearnedSettings
from harmonica.training.learning_to_cache import pair
from harmonica.training.logits import Part
from harmonica.training.memory import Split
from harmonica.training.sdt import trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start, bounds
from harmonica.utils.precision import dtype_of, itemsize_of

CONFIG = Path(__file__).parent.parent.parent / "workflow" / "config" / "paper.yaml"
BUDGET = 72 * GIB


def tables() -> dict:
    known = configuration.tables(yaml.safe_load(CONFIG.read_text()), {"scale": "paper"})
    return {name: known[name] for name in ("table1", "table2", "table3", "table6")}


def models(*kinds: str) -> list[str]:
    names = {r.experiment.protocol.model for about in tables().values() for r in configuration.rows(about)}
    return sorted(n for n in names if not kinds or get_model(n).kind in kinds)


def trainings() -> list[tuple[str, str]]:
    """Model and kind of every training of the tables."""
    rows = [r for about in tables().values() for r in configuration.rows(about)]
    learned = [r.experiment for r in rows if isinstance(r.experiment.method, LearnedSettings)]
    return sorted({(e.protocol.model, "sdt" if e.name in ("harmonica", "sdt_ltc") else e.name) for e in learned})


def first(*names: str, of: list[str]) -> list:
    """All names as parameters of a test, those not given for the extended tests: a model of a kind, or the largest, is
    enough to see a change."""
    return [*names, *(pytest.param(name, marks=pytest.mark.extended) for name in of if name not in names)]


def precision_of(name: str, job: str) -> str:
    return configuration.precision(tables()["table1"], job, get_model(name))


def close(counted: float, predicted: float) -> bool:
    """Not below what is needed, and not so far above it that half of a card stays empty."""
    return counted <= predicted <= 1.35 * SLACK * counted


@cache
def loop(name: str, images: int, precision: str) -> float:
    """Counted bytes of the denoising loop with a cache of every branch's output."""
    about = get_model(name)
    plan = half_reused(name, about.sampler, 4, about.cfg)
    sampler = make_sampler(about.sampler, 4)
    getattr(sampler, "scheduler", None)
    with fake() as peak:
        model = backbone(name, dtype_of(precision))
        start = batch(model, images)
        sampled = Run(model, plan, start.labels)
        sampled.sampler = sampler
        sampled(start.noise, start.seeds)
        return peak.most


@pytest.mark.parametrize("name", first("dit-xl-2-256", "pixart-sigma-2k", "uvit-h-2-256", of=models()))
def test_the_denoising_loop(name):
    about, precision = get_model(name), precision_of(name, "sampling")
    plan = half_reused(name, about.sampler, 4, about.cfg)
    assert batch_size(plan, 8, precision_of(name, "latency"), BUDGET) == 8  # the paper's batch fits
    images = batch_size(plan, None, precision, BUDGET)
    counted = loop(name, images, precision)
    assert SLACK * counted + about.autoencoder_bytes <= BUDGET
    assert close(counted, run_bytes(plan, about.layout, images, itemsize_of(precision)))


@pytest.mark.parametrize("name", ["dit-xl-2-256", "pixart-alpha-1024", "pixart-sigma-2k"])
def test_a_small_card_gets_smaller_batches(name):
    about, budget = get_model(name), 22 * GIB
    plan = half_reused(name, about.sampler, 4, about.cfg)
    images = batch_size(plan, None, "float16", budget)
    assert SLACK * loop(name, images, "float16") + about.autoencoder_bytes <= budget


@pytest.mark.parametrize("name", ["dit-xl-2-256", "dit-xl-2-512", "pixart-alpha-1024", "pixart-sigma-2k"])
def test_decoding(name):
    about = get_model(name)
    with fake() as peak, torch.inference_mode():
        vae = build_autoencoder(about)
        assert peak.now == pytest.approx(about.autoencoder_bytes, rel=0.01)
        side, before = about.resolution // 8, peak.now
        decoder(vae, 1)(torch.randn(2, 4, side, side))
    assert close(peak.most - before, about.decoding_bytes)
    weights = 2 * about.layout.parameters
    assert weights + about.autoencoder_bytes + about.decoding_bytes <= 22 * GIB


def split_of(name: str, kind: str, budget: float, batch: int | None = None) -> tuple[Split, int]:
    """How a training of table 1, 2, 3 or 6 is divided, and its batch."""
    rows = [r for about in tables().values() for r in configuration.rows(about)]
    names = {"sdt": ("harmonica", "sdt_ltc")}.get(kind, (kind,))
    e = next(r.experiment for r in rows if r.experiment.protocol.model == name and r.experiment.name in names)
    work = e.method.work(e.protocol, "paper")
    split = Split.of(
        e.model.layout, batch or work.batch, budget, guided=work.guided, graph_steps=work.graph_steps,
        keeps_cache=work.keeps_cache,
    )  # fmt: skip
    return split, batch or work.batch


def trained(name: str, split: Split, images: int) -> float:
    """Counted bytes of an iteration of SDT with three steps: a part beside the caches of all parts, then λ."""
    about = get_model(name)
    steps = 4 if about.kind == "uvit" else 3
    sampler = make_sampler(about.sampler, steps)
    getattr(sampler, "scheduler", None)
    with fake("cpu") as peak:
        model = backbone(name)
        own = [batch(model, b - a) for a, b in bounds(images, split.part)]
        guided = [Guided(model, b.labels, about.cfg, 3) for b in own]
        starts = [Start(g, b.noise, b.seeds, len(b.labels) / images) for g, b in zip(guided, own, strict=True)]
        softs = [Soft(model, checkpointing=split.checkpointing) for _ in starts]
        logits = Decided(steps, len(model.layout.branches), "cpu")
        trajectory(starts, sampler, logits, softs, [1.0] * steps, 1e-7, 0.1)
        many = guided[0].repeated(max(1, split.tails // split.part))
        with torch.no_grad():
            many.both(torch.randn(len(many.labels), *model.latent_shape), 500, Plain(model))
        return peak.most


def test_every_training_of_sdt_fits():
    names = [name for name, kind in trainings() if kind == "sdt"]
    splits = [split_of(name, "sdt", BUDGET)[0] for name in names]
    assert len(names) > 5 and all(s.peak <= BUDGET and not s.offload for s in splits)


@pytest.mark.slow
@pytest.mark.parametrize("name", first("uvit-h-2-256", of=["dit-xl-2-512", "pixart-alpha-256", "pixart-sigma-2k"]))
def test_trajectories_of_sdt(name):
    """As predicted: every kind of backbone, small and large images, in parts and whole."""
    split, images = split_of(name, "sdt", BUDGET)
    counted = trained(name, split, images)
    assert SLACK * counted <= BUDGET and close(counted, split.peak)


def test_an_undivided_batch_of_sdt_at_512_would_not_fit():
    """What parts are for: 32 images of DiT-XL/2 512, as the recipe has them, need more than any single GPU has."""
    assert trained("dit-xl-2-512", Split(32, False, False, 32), 32) > 100 * GIB


@pytest.mark.parametrize("name", models())
def test_every_training_fits_a_card_of_24_gb(name):
    """The largest with caches in the host's memory."""
    kinds = [kind for model, kind in trainings() if model == name]
    splits = [split_of(name, kind, 22 * GIB)[0] for kind in kinds]
    assert splits and all(s.peak <= 22 * GIB for s in splits)


@pytest.mark.parametrize(
    "name", first("uvit-h-2-256", of=[name for name, kind in trainings() if kind == "learning_to_cache"])
)
def test_learning_to_cache(name):
    about = get_model(name)
    split, images = split_of(name, "learning_to_cache", BUDGET)
    with fake("cpu") as peak:
        model, sampler = backbone(name), make_sampler(about.sampler, 4)
        logits = Decided(4, len(model.layout.branches), "cpu")
        start = batch(model, split.part)
        teacher, student = pair(
            model, sampler, logits, 2, start.noise, start.labels, torch.randn_like(start.noise), split=split
        )
        logits.descend([2], [Part.of(1.0, teacher, student)], 1.0, 1e-6)
    assert SLACK * peak.most <= BUDGET and close(peak.most, split.peak)


def test_gradients_through_all_steps_of_a_trajectory():
    """The activations of one step and its cache, which `direct` keeps for all 20."""
    (name,) = {n for n, kind in trainings() if kind == "direct"}
    split, _ = split_of(name, "direct", BUDGET)
    with fake("cpu") as peak:
        model, logits = backbone(name), Decided(3, 56, "cpu")
        guided, start = Guided(model, torch.zeros(split.part, dtype=torch.long), 1.5, 3), batch(model, split.part)
        soft = Soft(model, checkpointing=split.checkpointing, detach=False)
        with torch.no_grad():
            guided(start.noise, 999, soft.row(None))
        x, sampler, held = start.noise, make_sampler("ddim", 3), []
        for s in (1, 2):
            x = sampler.step(s, guided(x, 500, soft.row(logits.row(s, 0.1))), x)
            held.append(peak.now)
    step = held[1] - held[0]
    assert SLACK * (held[0] + 19 * step) <= BUDGET
    assert close(held[0] + 19 * step, split.peak)
