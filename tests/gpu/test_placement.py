"""Full-size jobs on a GPU that is not there: no tensor on the wrong device, no clash of dtypes, and no wait for the
host inside the sampling loop."""

import numpy as np
import pytest
import torch
from fake_gpu import Decided, backbone, batch, fake, half_reused
from torch._subclasses.fake_tensor import DataDependentOutputException

from harmonica.execution import Guided, Plain, Run
from harmonica.models import get_model
from harmonica.models.loading import decoder
from harmonica.models.random_weights import build_autoencoder
from harmonica.plan import COMPUTE, REUSE, SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED, Plan, Protocol
from harmonica.samplers import SAMPLERS, make_sampler
from harmonica.training import iepo
from harmonica.training.learning_to_cache import pair
from harmonica.training.sdt import compared
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.precision import products

DIT, PIXART, UVIT = "dit-xl-2-256", "pixart-alpha-256", "uvit-h-2-256"


def prepared(plan: Plan):
    """A sampler whose diffusers scheduler exists before anything is fake: its numbers are on the host, where looking
    one up, as DDPM's does for the next timestep, waits for no device."""
    sampler = make_sampler(plan.protocol.sampler, plan.steps)
    scheduler = getattr(sampler, "scheduler", None)
    if hasattr(scheduler, "previous_timestep"):
        following = {t: int(scheduler.previous_timestep(t)) for t in sampler.timesteps}
        scheduler.previous_timestep = following.__getitem__
    return sampler


def generated(name: str, plan: Plan, images: int = 50, dtype=torch.float16):
    sampler = prepared(plan)
    with fake() as peak:
        model = backbone(name, dtype)
        start = batch(model, images)
        sampled = Run(model, plan, start.labels)
        sampled.sampler = sampler
        return sampled(start.noise, start.seeds), peak.most


@pytest.mark.parametrize(
    ("name", "sampler"), [*((n, s) for n in (DIT, PIXART) for s in sorted(SAMPLERS)), (UVIT, "dpm-solver")]
)
def test_sampling(name, sampler):
    latents, _ = generated(name, half_reused(name, sampler, 4))
    assert latents.shape == (50, 4, 32, 32) and latents.dtype == torch.float32 and latents.is_cuda


@pytest.mark.parametrize(
    ("action", "cfg"),
    [(COMPUTE, 1.0), (REUSE, 1.4), (SPAN_DELTA, 1.0), (SPAN_OUTPUT, 1.4), (SPAN_TIMED, 1.0), (SPAN_TIMED, 1.4)],
)
def test_every_action(action, cfg):
    sampler = "dpm-solver"
    actions = np.zeros((6, len(get_model(UVIT).layout.branches)), np.uint8)
    actions[[2, 3, 5], :30] = action
    plan = Plan(actions, Protocol(UVIT, sampler, 6, cfg))
    latents, _ = generated(UVIT, plan, dtype=torch.float32)
    assert latents.is_cuda


def test_a_synchronisation_would_be_seen():
    with fake(), pytest.raises(DataDependentOutputException):
        batch(backbone(DIT), 2).noise.sum().item()


@pytest.mark.parametrize("name", ["dit-xl-2-512", "pixart-sigma-2k"])
def test_decoding(name):
    about = get_model(name)
    with fake(), torch.inference_mode():
        side = about.resolution // 8
        images = decoder(build_autoencoder(about), 1)(torch.randn(3, 4, side, side))
        assert images.shape == (3, 3, about.resolution, about.resolution) and images.is_cuda


def starts(model, name: str, images: int, parts: int = 1) -> list[Start]:
    about = get_model(name)
    protocol = Protocol(name, about.sampler, 4, about.cfg)
    own = [batch(model, images // parts) for _ in range(parts)]
    return [Start(Guided.by(protocol, model, b.labels), b.noise, b.seeds, 1 / parts) for b in own]


@pytest.mark.parametrize(("name", "precision"), [(DIT, "bfloat16"), (PIXART, "tf32"), (UVIT, "bfloat16")])
def test_a_step_of_sdt(name, precision):
    """Teacher, student and loss, in two parts; the gradient needs a driver."""
    sampler = prepared(half_reused(name, get_model(name).sampler, 4))
    with fake(), products(precision):
        model = backbone(name, torch.float32 if precision == "tf32" else torch.bfloat16)
        parts, branches = starts(model, name, 32, 2), len(model.layout.branches)
        softs, logits = [Soft(model) for _ in parts], Decided(4, branches, "cuda")
        states = [sampler.begin(part.noise) for part in parts]
        with torch.no_grad():
            for part, soft, state in zip(parts, softs, states, strict=True):
                part.model(sampler.latents(state), sampler.timesteps[0], soft.row(None))
        outputs = []
        losses = list(compared(parts, sampler, softs, states, 1, logits, 0.1, outputs))
        assert [part.share for part in losses] == [0.5, 0.5]
        assert all(part.error.requires_grad and part.error.is_cuda for part in losses)
        assert outputs[1].shape[0] == 16 and all(x.is_cuda for soft in softs for x in soft.cache.values())


@pytest.mark.parametrize("name", [DIT, PIXART, UVIT])
def test_lambda(name):
    sampler = prepared(half_reused(name, get_model(name).sampler, 2))
    with fake(), products("float32"):
        model = backbone(name)
        (part,), logits = starts(model, name, 32), Decided(2, len(model.layout.branches), "cuda")
        found = iepo.official(part.model, sampler, logits, Soft(model), 0.1, part.noise, part.seeds, tails=64)
        assert found.shape == (2,) and found.is_cuda


def test_lambda_in_the_papers_form():
    plan = half_reused(DIT, "ddim", 4)
    with fake():
        model = backbone(DIT)
        (part,) = starts(model, DIT, 32)
        assert iepo.paper(part.model, make_sampler("ddim", 4), plan, part.noise).is_cuda


@pytest.mark.parametrize("name", [DIT, UVIT])
def test_a_step_of_learning_to_cache(name):
    sampler = make_sampler(get_model(name).sampler, 4)
    with fake(), products("tf32"):
        model = backbone(name)
        start, logits = batch(model, 64), Decided(4, len(model.layout.branches), "cuda")
        teacher, student = pair(model, sampler, logits, 2, start.noise, start.labels, torch.randn_like(start.noise))
        assert (teacher - student).square().mean().requires_grad and teacher.is_cuda


def test_the_loop_that_latency_times():
    """Condition and noise are on the device before the clock starts; nothing waits until it stops."""
    plan = half_reused(PIXART, "dpmsolver++", 20, cfg=4.5)
    latents, _ = generated(PIXART, plan, images=8)
    assert latents.shape == (8, 4, 32, 32)


def test_attention_in_tf32_takes_the_kernels_of_float16(monkeypatch):
    seen, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, **more):
        seen.append(q.dtype)
        return kernel(q, k, v, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    for precision, dtype in (("float32", torch.float32), ("tf32", torch.float16)):
        seen.clear()
        with fake(), products(precision), torch.inference_mode():
            model = backbone(DIT)
            condition = model.condition(torch.zeros(2, dtype=torch.long))
            out = Plain(model).evaluate(model, torch.randn(2, *model.latent_shape), 500, condition)
        assert set(seen) == {dtype} and out.dtype == torch.float32
