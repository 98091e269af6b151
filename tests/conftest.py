import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small to share a product among threads
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a job of a workflow is a process, which takes twice as long to start

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from harmonica.plan import (  # noqa: E402
    FORECAST,
    FORECASTS,
    OUTPUT_FORECAST,
    REUSE,
    SPAN_DELTA,
    SPAN_FORECAST,
    SPAN_OUTPUT,
    Plan,
    Protocol,
)

settings.register_profile("suite", deadline=None, max_examples=60)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Whole workflows first: one file, on one worker, takes half of the time of all tests."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture
def empty_hub(monkeypatch):
    """A hub whose repositories have nothing, without the network: its client tries for 20 seconds."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: None)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", lambda *args, **kwargs: [])


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


def plans(branches: int = TINY_BRANCHES, most_steps: int = 6, forecast: bool = True):
    """Any executable plan: single reuses and forecasts, spans of all kinds, forecast outputs of the model. The
    weights of a forecast are for outputs that exist, some of them 0."""

    @st.composite
    def draw(draw):
        steps = draw(st.integers(1, most_steps))
        actions = np.zeros((steps, branches), np.uint8)
        single = [0, REUSE, FORECAST] if forecast else [0, REUSE]
        kinds = [0, REUSE, SPAN_DELTA, SPAN_OUTPUT] + [SPAN_FORECAST, OUTPUT_FORECAST] * forecast
        for s in range(1, steps):
            kind = draw(st.sampled_from(kinds))
            if kind == REUSE:
                actions[s] = draw(st.lists(st.sampled_from(single), min_size=branches, max_size=branches))
            elif kind == OUTPUT_FORECAST:
                actions[s] = kind
            elif kind:
                start = draw(st.integers(0, branches - 1))
                actions[s, start : draw(st.integers(start + 1, branches))] = kind
        if not np.isin(actions, FORECASTS).any():
            return Plan(actions, protocol(steps))
        shared = draw(st.booleans())
        weights = np.zeros((steps, 1 if shared else branches, 3), np.float32)
        at_least = 1 if shared else None  # the first step's outputs are the only ones that every branch is sure to have
        for s, i in np.argwhere(np.isin(actions, FORECASTS)):
            there = at_least or min(_outputs_before(actions, s, i), 3)
            w = draw(st.lists(st.sampled_from([0.0, -0.5, 0.75, 2.0]), min_size=there, max_size=there).filter(any))
            weights[s, 0 if shared else i, :there] = w
        return Plan(actions, protocol(steps), weights=weights)

    return draw()


def _outputs_before(actions: np.ndarray, s: int, i: int) -> int:
    """Outputs of a forecast branch, of the span that begins there, or of the model, before step `s`."""
    if actions[s, i] == OUTPUT_FORECAST:
        return int((actions[:s, 0] != OUTPUT_FORECAST).sum())
    stop = i + 1
    if actions[s, i] == SPAN_FORECAST:
        while stop < actions.shape[1] and actions[s, stop] == SPAN_FORECAST:
            stop += 1
        return int(np.isin(actions[:s, i:stop], (0, REUSE, FORECAST)).all(1).sum())
    return int((actions[:s, i] == 0).sum())
