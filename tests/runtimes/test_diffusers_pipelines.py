"""Plans on unmodified diffusers pipelines with small random models."""

import numpy as np
import pytest
import torch
from conftest import TINY, protocol, sample
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
)
from tiny_pixart import TINY_PIXART, pair, prompts

import harmonica
from harmonica.backbones.base import CaptionsInMemory
from harmonica.execution import Guided, Planned
from harmonica.plan import REUSE, SPAN_DELTA, SPAN_OUTPUT, Plan, all_compute
from harmonica.samplers import make_sampler
from harmonica.utils.errors import UserError

STEPS = 4


def vae(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(latent_channels=channels, block_out_channels=(4,), norm_num_groups=2)


def plan(branches: int, kind: int = REUSE, first: int = 3) -> Plan:
    """Reuses anywhere, or a span from branch `first` on at every second step."""
    actions = np.zeros((STEPS, branches), np.uint8)
    if kind == REUSE:
        actions[1:] = REUSE * np.random.default_rng(0).integers(0, 2, (STEPS - 1, branches))
    else:
        actions[1::2, first:] = kind
    return Plan(actions, protocol(STEPS))


@pytest.fixture(scope="module", params=[PixArtAlphaPipeline, PixArtSigmaPipeline])
def pixart(request):
    theirs, own = pair()
    scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear")
    pipe = request.param(None, None, vae(), theirs, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe, own


def run(pipe, steps: int = STEPS):
    """Latents of two prompts, guidance 4.5, from the same noise."""
    text, mask = prompts(2)
    nothing = torch.zeros_like(mask)
    nothing[:, 0] = 1
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=text, prompt_attention_mask=mask, guidance_scale=4.5,
        negative_prompt_embeds=torch.ones_like(text), negative_prompt_attention_mask=nothing, output_type="latent",
        num_inference_steps=steps, latents=torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        height=8, width=8, use_resolution_binning=False,
    ).images  # fmt: skip


def captions() -> CaptionsInMemory:
    """Those of `run` for our own loop: two, and the null prompt."""
    text, mask = prompts(2)
    nothing = torch.tensor([[1, 0, 0, 0, 0]])
    return CaptionsInMemory(torch.cat([text, torch.ones(1, 5, 10)]), torch.cat([mask, nothing]))


@pytest.mark.parametrize("kind", [0, REUSE, SPAN_DELTA, SPAN_OUTPUT])
def test_a_pixart_pipeline_gives_what_the_suite_gives(pixart, kind):
    pipe, own = pixart
    own.conditioning = captions()
    branches = 3 * TINY_PIXART["num_layers"]
    p = plan(branches, kind)
    harmonica.enable_cache(pipe, p)
    theirs = run(pipe)
    harmonica.disable_cache(pipe)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = sample(Guided(own, torch.arange(2), 4.5, 4), make_sampler("dpmsolver++", STEPS), Planned(own, p), x)
    torch.testing.assert_close(theirs, ours, atol=1e-2, rtol=1e-2)
    if kind:
        assert (theirs - run(pipe)).abs().max() > 0.1


def test_computing_everything_changes_no_bit(pixart, tmp_path):
    pipe, _ = pixart
    before = run(pipe)
    all_compute(protocol(STEPS), 3 * TINY_PIXART["num_layers"]).save(tmp_path / "p.safetensors")
    assert torch.equal(run(harmonica.enable_cache(pipe, tmp_path / "p.safetensors")), before)
    assert torch.equal(run(harmonica.disable_cache(pipe)), before)
    assert "forward" not in pipe.transformer.__dict__


def test_plans_that_do_not_fit(pixart):
    pipe, _ = pixart
    with pytest.raises(UserError, match="2 blocks of 3"):
        harmonica.enable_cache(pipe, plan(8))
    actions = np.zeros((STEPS, 6), np.uint8)
    actions[1, 1:5] = SPAN_DELTA
    with pytest.raises(UserError, match="whole blocks"):
        harmonica.enable_cache(pipe, Plan(actions, protocol(STEPS)))
    harmonica.enable_cache(pipe, plan(6))
    with pytest.raises(UserError, match="for 4 steps, but the pipeline runs 5"):
        run(pipe, steps=5)
    run(pipe)  # and it still works
    harmonica.disable_cache(pipe)


def test_another_hook_is_left_in_place(pixart):
    pipe, _ = pixart
    module = pipe.transformer.transformer_blocks[0].ff
    original, calls = module.forward, []
    module.forward = lambda *a, **k: calls.append(1) or original(*a, **k)
    run(harmonica.enable_cache(pipe, plan(6)))
    harmonica.disable_cache(pipe)
    reused = len(calls)
    run(pipe)
    assert 0 < reused < STEPS and len(calls) == reused + STEPS
    del module.forward


@pytest.mark.parametrize("kind", [REUSE, SPAN_DELTA])
def test_a_dit_pipeline(kind):
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(**TINY | {"num_embeds_ada_norm": 1000}).eval()
    pipe = DiTPipeline(transformer, vae(), DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False))
    pipe.set_progress_bar_config(disable=True)

    def images():
        return pipe(
            [3, 7], generator=torch.Generator().manual_seed(0), num_inference_steps=STEPS, output_type="pt"
        ).images

    plain, branches = images(), 2 * TINY["num_layers"]
    harmonica.enable_cache(pipe, all_compute(protocol(STEPS), branches))
    assert torch.equal(images(), plain)
    harmonica.enable_cache(pipe, plan(branches, kind, first=2))  # in place of the other
    assert not torch.equal(images(), plain)
    assert torch.equal((harmonica.disable_cache(pipe), images())[1], plain)
