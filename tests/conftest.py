import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small to share a product among threads

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from harmonica.plan import REUSE, SPAN_DELTA, SPAN_OUTPUT, Plan, Protocol  # noqa: E402

settings.register_profile("suite", deadline=None, max_examples=60)
settings.load_profile("suite")

TINY = dict(
    num_attention_heads=2, attention_head_dim=8, num_layers=3, in_channels=4, out_channels=8, sample_size=4,
    patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6,
)  # fmt: skip
TINY_BRANCHES = 2 * TINY["num_layers"]


@pytest.fixture(scope="session")
def tiny_diffusers():
    """A small diffusers DiT with random weights that are not zero anywhere, its embedders tied."""
    import torch
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(**TINY).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.25)
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    return model


@pytest.fixture(scope="session")
def tiny(tiny_diffusers):
    from harmonica.backbones.dit import DiT

    return DiT(TINY, "tiny").load_weights(tiny_diffusers.state_dict())


def protocol(steps: int, **more) -> Protocol:
    return Protocol(**{"model": "pocket-dit", "sampler": "ddim", "steps": steps, "cfg": 1.5, **more})


def sample(model, sampler, policy, noise, seeds=None):
    """Latents of a guided model under any policy and sampler, also where no plan says them."""
    import torch

    from harmonica.execution.denoise import denoise, under_policy

    with torch.inference_mode():
        latents = denoise(sampler, sampler.begin(noise), under_policy(model, sampler, policy), seeds=seeds)
    policy.finish()
    return latents


def plans(branches: int = TINY_BRANCHES, most_steps: int = 6):
    """Any executable plan: single reuses, and spans of both kinds anywhere."""

    @st.composite
    def draw(draw):
        steps = draw(st.integers(1, most_steps))
        actions = np.zeros((steps, branches), np.uint8)
        for s in range(1, steps):
            kind = draw(st.sampled_from([0, REUSE, SPAN_DELTA, SPAN_OUTPUT]))
            if kind == REUSE:
                actions[s] = draw(st.lists(st.sampled_from([0, REUSE]), min_size=branches, max_size=branches))
            elif kind:
                start = draw(st.integers(0, branches - 1))
                actions[s, start : draw(st.integers(start + 1, branches))] = kind
        return Plan(actions, protocol(steps))

    return draw()
