"""Every sampler against an independent statement of its update, and every plan under every sampler."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_BRANCHES, protocol, sample

from harmonica.cli import main
from harmonica.execution import Batch, Guided, Plain, Planned, denoise, run
from harmonica.execution.seeds import StepSeeds, noise_and_labels
from harmonica.models import get_model
from harmonica.models.loading import check_schedule, load_backbone
from harmonica.plan import REUSE, Plan, Protocol, all_compute
from harmonica.samplers import SAMPLERS, make_sampler
from harmonica.samplers.ddim import DDIM
from harmonica.training import iepo
from harmonica.training.logits import Logits
from harmonica.training.sdt import trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.errors import UserError

BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
STOCHASTIC = ("iddpm", "sa-solver")
MEMORY = {"dpm-solver": 1, "dpmsolver++": 1, "sa-solver": 3}  # tensors besides the latents; the others have none


def tensors(*shapes):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=g) for s in shapes]


def normal(seeds, shape):
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in seeds])


def logsnr(t):
    return 0.5 * math.log(BAR[t] / (1 - BAR[t]))


@pytest.mark.parametrize(
    ("name", "steps", "first", "last"),
    [("ddim", 10, 999, 0), ("iddpm", 100, 999, 0), ("dpmsolver++", 20, 999, 50), ("sa-solver", 25, 999, 40)],
)
def test_step_lists(name, steps, first, last):
    t = make_sampler(name, steps).timesteps
    assert (len(t), t[0], t[-1]) == (steps, first, last) and list(t) == sorted(set(t), reverse=True)


def test_iddpm_is_the_respaced_posterior():
    """Nichol & Dhariwal: posterior mean of the respaced chain, log variance between its own and log β."""
    sampler, (x, out) = make_sampler("iddpm", 5), tensors((2, 4, 3, 3), (2, 8, 3, 3))
    t, seeds = sampler.timesteps, lambda s: [5, 9]
    for s in (0, 2, 3):
        bar, previous = BAR[t[s]], BAR[t[s + 1]]
        beta = 1 - bar / previous
        eps, v = out.chunk(2, 1)
        x0 = (x - (1 - bar) ** 0.5 * eps) / bar**0.5
        mean = (previous**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - previous) * x) / (1 - bar)
        share = (v + 1) / 2
        log_var = share * math.log(beta) + (1 - share) * math.log(beta * (1 - previous) / (1 - bar))
        expected = mean + (0.5 * log_var).exp() * normal([5, 9], (4, 3, 3))
        torch.testing.assert_close(sampler.step(s, out, x, seeds), expected, rtol=1e-4, atol=1e-4)
    x0 = (x - (1 - BAR[0]) ** 0.5 * out[:, :4]) / BAR[0] ** 0.5
    torch.testing.assert_close(sampler.step(4, out, x, seeds), x0, rtol=1e-4, atol=1e-4)  # no noise at the end


def test_dpm_solver_is_the_2m_update():
    """Lu et al. 2022, algorithm 2: D = (1 + 1/2r) m0 − 1/2r m1, r the ratio of steps in half log-SNR."""
    sampler, (x, *outs) = make_sampler("dpmsolver++", 6), tensors((2, 4, 3, 3), *[(2, 8, 3, 3)] * 6)
    t, state, m1 = sampler.timesteps, sampler.begin(x), None
    assert state.shape[1] == 8
    for s, out in enumerate(outs):
        m0 = (x - (1 - BAR[t[s]]) ** 0.5 * out[:, :4]) / BAR[t[s]] ** 0.5
        if s == 5:
            x = m0  # ends on sigma 0
        else:
            h = logsnr(t[s + 1]) - logsnr(t[s])
            d = m0
            if s:
                r = (logsnr(t[s]) - logsnr(t[s - 1])) / h
                d = (1 + 1 / (2 * r)) * m0 - 1 / (2 * r) * m1
            ratio = ((1 - BAR[t[s + 1]]) / (1 - BAR[t[s]])) ** 0.5
            x = ratio * x - BAR[t[s + 1]] ** 0.5 * math.expm1(-h) * d
        state = sampler.step(s, out, state)
        torch.testing.assert_close(sampler.latents(state), x, rtol=1e-3, atol=1e-3)
        m1, x = m0, sampler.latents(state)


@pytest.mark.parametrize(("s", "tau"), [(0, 0), (3, 1)])
def test_sa_solver_begins_with_a_stochastic_first_order_step(s, tau):
    """Xue et al. 2023, one-step predictor: e^{−τ²h} σt/σs x + αt (1 − e^{−(1+τ²)h}) m + σt √(1 − e^{−2τ²h}) z."""
    sampler, (x, out) = make_sampler("sa-solver", 8).starting_at(s), tensors((2, 4, 3, 3), (2, 8, 3, 3))
    now, after = sampler.timesteps[s : s + 2]
    h = logsnr(after) - logsnr(now)
    alpha, sigma = BAR[after] ** 0.5, (1 - BAR[after]) ** 0.5
    m = (x - (1 - BAR[now]) ** 0.5 * out[:, :4]) / BAR[now] ** 0.5
    expected = (
        math.exp(-(tau**2) * h) * sigma / (1 - BAR[now]) ** 0.5 * x
        + alpha * (1 - math.exp(-(1 + tau**2) * h)) * m
        + sigma * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * normal([3, 4], (4, 3, 3))
    )
    state = sampler.step(s, out, sampler.begin(x), lambda s: [3, 4])
    assert state.shape[1] == 16
    torch.testing.assert_close(sampler.latents(state), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_memory_follows_the_latents_in_the_state(name):
    """A trajectory begins with its latents and nothing remembered; a state keeps its channels from step to step."""
    sampler, (x, *outs) = make_sampler(name, 6), tensors((2, 4, 3, 3), *[(2, 8, 3, 3)] * 6)
    assert sampler.memory == MEMORY.get(name, 0)
    state, channels = sampler.begin(x), 4 * (1 + sampler.memory)
    assert torch.equal(sampler.latents(state), x) and not state[:, 4:].any()
    for s, out in enumerate(outs):
        assert state.shape == (2, channels, 3, 3)
        state = sampler.step(s, out, state, lambda s: [5, 9])
        assert state.shape == (2, channels, 3, 3) and torch.equal(sampler.latents(state), state[:, :4])


@pytest.mark.parametrize("name", ["dpmsolver++", "iddpm", "sa-solver"])
def test_memory_in_the_latents_is_the_schedulers_own(name):
    """A whole run with what is remembered in the channels equals the scheduler used as diffusers means it."""
    sampler, (x, *outs) = make_sampler(name, 7), tensors((2, 4, 3, 3), *[(2, 8, 3, 3)] * 7)
    fresh, state = type(sampler)(7).scheduler, sampler.begin(x)
    for s, out in enumerate(outs):
        seeds = [100 + s, 200 + s]
        generators = [torch.Generator().manual_seed(k) for k in seeds]
        more = {"generator": generators} if name in STOCHASTIC else {}
        x = fresh.step(out if name == "iddpm" else out[:, :4], fresh.timesteps[s], x, **more).prev_sample
        state = sampler.step(s, out, state, lambda s, seeds=seeds: seeds)
        torch.testing.assert_close(sampler.latents(state), x, rtol=1e-5, atol=1e-5)


def generated(tiny, name, policy, first=0, count=4, steps=6):
    noise, labels = noise_and_labels(3, first, count, tiny.latent_shape, tiny.conditioning.count)
    seeds = StepSeeds(3, first, count)
    return sample(Guided(tiny, labels, 1.5, 3), make_sampler(name, steps), policy, noise, seeds)


def some_reuse(name, steps=6):
    actions = np.zeros((steps, TINY_BRANCHES), np.uint8)
    actions[2::2, ::2] = REUSE
    return Plan(actions, protocol(steps, sampler=name))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_plans_under_every_sampler(tiny, name):
    """A plan that computes all changes nothing, one that reuses does, and an image does not depend on its batch."""
    plain = generated(tiny, name, Plain(tiny))
    assert plain.shape == (4, *tiny.latent_shape)
    everything = Plan(np.zeros((6, TINY_BRANCHES), np.uint8), protocol(6, sampler=name))
    assert torch.equal(generated(tiny, name, Planned(tiny, everything)), plain)
    cached = generated(tiny, name, Planned(tiny, some_reuse(name)))
    assert (cached - plain).abs().max() > 1e-3
    alone = torch.cat([generated(tiny, name, Planned(tiny, some_reuse(name)), first=k, count=1) for k in range(4)])
    torch.testing.assert_close(alone, cached, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_official_lambda_by_its_definition(tiny, name):
    """One run for every prefix, each from the noise on, instead of the shared prefixes and batched tails."""
    steps, tau = 6, 0.4
    sampler, seeds = make_sampler(name, steps), StepSeeds(0, 0, 2)
    noise, labels = noise_and_labels(0, 0, 2, tiny.latent_shape, tiny.conditioning.count)
    model = Guided(tiny, labels, 1.5, 3)
    initial = torch.randn(steps, TINY_BRANCHES, generator=torch.Generator().manual_seed(1))
    logits = Logits(initial, range(1, steps), 0.1)
    images = []
    with torch.no_grad():
        for last in range(steps):
            soft, plain = Soft(tiny), Plain(tiny)

            def output(x, s, last=last, soft=soft, plain=plain):
                policy = plain if s > last else soft.row(logits.row(s, tau) if s else None)
                return model.both(x[:2], sampler.timesteps[s], policy)

            state = sampler.begin(noise.repeat(2, 1, 1, 1))
            images.append(denoise(sampler, state, output, seeds=seeds))
    change = [(b - a).square().mean() for a, b in zip(images, images[1:], strict=False)]
    own = iepo.official(model, sampler, logits, Soft(tiny), tau, noise, seeds)
    torch.testing.assert_close(own, torch.stack([torch.zeros(()), *change]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_training_walks_the_noise_of_inference(tiny, name):
    """The student's trajectory with every r at 1 is the uncached run, noise and all."""
    sampler, seeds = make_sampler(name, 5), StepSeeds(0, 0, 2)
    noise, labels = noise_and_labels(0, 0, 2, tiny.latent_shape, tiny.conditioning.count)
    model = Guided(tiny, labels, 1.5, 3)
    logits = Logits(torch.full((5, TINY_BRANCHES), 90.0), range(5), 1e-9)
    start = Start(model, noise, seeds)
    (x0,), _ = trajectory([start], sampler, logits, [Soft(tiny)], torch.ones(5), 0.0, 0.1, stale=False)
    torch.testing.assert_close(x0, sample(model, sampler, Plain(tiny), noise, seeds), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dpmsolver++", "iddpm", "sa-solver", "dpm-solver"])
@pytest.mark.parametrize("method", ["harmonica", "learning_to_cache"])
def test_routers_train_under_every_sampler(tmp_path, name, method):
    out = tmp_path / "p.safetensors"
    settings = [x for k in ("beta=1e-4", "rounds=2", "batch=2") for x in ("--set", k)]
    assert main(["plan", method, "--sampler", name, "--steps", "4", "-o", str(out), *settings]) == 0
    assert main(["sample", str(out), "--images", "2", "-o", str(tmp_path / "images")]) == 0


def test_names_and_steps():
    with pytest.raises(UserError, match="did you mean 'sa-solver'"):
        make_sampler("sa_solver", 10)
    for name in SAMPLERS:
        with pytest.raises(
            UserError, match=r"in \[1, (999|1000)\], .* got 0$|steps must be even and in \[2, 1000\], got 0$"
        ):
            make_sampler(name, 0)


def test_ddim_is_the_textbook_update():
    sampler = DDIM(4)
    assert sampler.timesteps == (999, 666, 333, 0)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x, eps = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2)
    x0 = (x - (1 - bar[666]) ** 0.5 * eps[:, :4]) / bar[666] ** 0.5
    torch.testing.assert_close(sampler.step(1, eps, x), bar[333] ** 0.5 * x0 + (1 - bar[333]) ** 0.5 * eps[:, :4])
    x0 = (x - (1 - bar[0]) ** 0.5 * eps[:, :4]) / bar[0] ** 0.5
    torch.testing.assert_close(sampler.step(3, eps, x), x0)


def test_samplers_by_name():
    with pytest.raises(UserError, match="unknown sampler 'dim'; did you mean 'ddim'"):
        make_sampler("dim", 10)
    with pytest.raises(UserError, match=r"steps must be in \[1, 1000\], .* got 0$"):
        make_sampler("ddim", 0)


@pytest.fixture(scope="module", params=["pocket-dit", "pocket-uvit"])
def trained(request):
    """A shipped model, and where its own schedule's probability-flow solution ends from four noises."""
    model = get_model(request.param)
    backbone = load_backbone(model)
    return backbone, latents_of(backbone, model, "dpm-solver", 60)


def latents_of(backbone, model, sampler, steps):
    plan = all_compute(Protocol(model.name, sampler, steps, model.cfg), len(model.layout.branches))
    return run(backbone, plan, Batch.of(backbone, 0, 0, 4))


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 60), ("dpmsolver++", 30)])
def test_every_deterministic_sampler_solves_the_models_own_equation(trained, sampler, steps):
    """Each follows the noise schedule that the model was trained with, DiT's or U-ViT's."""
    backbone, solution = trained
    found = latents_of(backbone, get_model(model_name(backbone)), sampler, steps)
    assert (found - solution).square().mean().sqrt() < 0.05


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_every_stochastic_sampler_ends_at_images(trained, sampler):
    """IDDPM without a learned variance, too: the latents have the spread of the deterministic solution's."""
    backbone, solution = trained
    found = latents_of(backbone, get_model(model_name(backbone)), sampler, 30)
    assert found.std() == pytest.approx(solution.std(), rel=0.25)


def test_another_schedule_than_the_models_is_far_off(trained):
    backbone, solution = trained
    own = backbone.schedule
    backbone.schedule = "linear" if own == "scaled_linear" else "scaled_linear"
    try:
        found = latents_of(backbone, get_model(model_name(backbone)), "ddim", 60)
    finally:
        backbone.schedule = own
    assert (found - solution).square().mean().sqrt() > 0.3


def model_name(backbone) -> str:
    return "pocket-uvit" if backbone.layout.skips else "pocket-dit"


def test_an_unknown_schedule():
    with pytest.raises(UserError, match="unknown noise schedule 'cosine'"):
        make_sampler("ddim", 10, "cosine")


def test_a_pipeline_that_says_another_schedule(tmp_path):
    model = get_model("pocket-uvit")
    check_schedule(tmp_path, model)  # it says nothing
    shutil.copytree(get_model("pocket-dit").folder("vae").parent / "scheduler", tmp_path / "scheduler")
    check_schedule(tmp_path, get_model("pocket-dit"))
    with pytest.raises(
        UserError, match="beta_start 0.0001, beta_end 0.02, beta_schedule linear: pocket-uvit is registered"
    ):
        check_schedule(tmp_path, model)
