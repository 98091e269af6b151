"""Compiled plans give what plans give. Most tests have torch.compile trace a step and run it without code of its own,
which is quick: a step that is not one graph fails there, too."""

import numpy as np
import pytest
import torch
from conftest import TINY_BRANCHES, plans, protocol, sample
from hypothesis import given, settings

from harmonica.execution import Guided, Planned
from harmonica.plan import FORECAST, REUSE, Plan
from harmonica.runtimes.compiled import Compiled
from harmonica.runtimes.compiled_branches import CompiledBranches
from harmonica.runtimes.cuda_graph import CudaGraph
from harmonica.samplers.ddim import DDIM


def checked(model, plan, **options):
    """The compiled plan, after its outputs were compared with those of the plan, twice."""
    noise, sampler = torch.randn(3, *model.latent_shape), DDIM(plan.steps)
    guided = Guided(model, torch.tensor([0, 3, 4]), 1.5, 3)
    compiled, own = Compiled(model, plan, **options), Planned(model, plan)
    expected = sample(guided, sampler, own, noise)
    for _ in range(2):
        found = sample(guided, sampler, compiled, noise)
        torch.testing.assert_close(found, expected, rtol=0, atol=float(1e-5 * expected.abs().max()))
    assert compiled.cache.cur == own.cache.cur and compiled.cache.peak_bytes <= own.cache.peak_bytes
    return compiled


@settings(max_examples=12)
@given(plans(most_steps=4))
def test_every_step_is_one_graph(tiny, plan):
    checked(tiny, plan, backend="eager")


def fora(steps, interval):
    actions = np.zeros((steps, TINY_BRANCHES), np.uint8)
    actions[np.arange(steps) % interval > 0] = REUSE
    return Plan(actions, protocol(steps))


def test_equal_steps_share_a_graph(tiny):
    """Of FORA's there are three kinds: those that fill the cache, those that read it, and those that empty it."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = checked(tiny, fora(9, 3), backend=backend)
    assert len(graphs) == len(set(compiled.kinds)) == 3


def test_forecasts_share_a_graph_whatever_their_weights(tiny):
    """Two outputs are cached, and each later step sums them up with weights of its own: these are inputs."""
    actions, weights = np.zeros((7, TINY_BRANCHES), np.uint8), np.zeros((7, 1, 2))
    actions[2:], weights[2:, 0, 0], weights[2:, 0, 1] = FORECAST, np.arange(2, 7), -np.arange(1, 6)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    checked(tiny, Plan(actions, protocol(7), weights=weights), backend=backend)
    assert len(graphs) == 4  # fill, fill, sum up, sum up and drop


@pytest.mark.slow
def test_generated_code(tiny):
    """On a CPU its products are oneDNN's, and what was asked for to get them is not left behind."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    compiled = checked(tiny, fora(4, 2))
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    before, noise = len(compiled._compiled), torch.randn(2, *tiny.latent_shape)
    other = Guided(tiny, torch.tensor([0, 1]), 1.0, 3), DDIM(4), compiled, noise
    sample(*other)  # of another batch, so other code
    assert len(compiled._compiled) == before + len(set(compiled.kinds))
    with torch.profiler.profile() as seen:
        sample(*other)
    names = {event.key for event in seen.key_averages()}
    assert "mkldnn::_linear_pointwise" in names and "aten::addmm" not in names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [Planned, Compiled, lambda model, plan: CompiledBranches(model).policy(plan)])
def test_a_trajectory_as_one_cuda_graph(tiny, kind):
    model, plan, noise = tiny.cuda(), fora(9, 3), torch.randn(3, *tiny.latent_shape, device="cuda")
    guided, policy = Guided(model, torch.tensor([0, 3, 4], device="cuda"), 1.5, 3), kind(model, plan)
    run = CudaGraph(lambda x: sample(guided, DDIM(9), policy, x), noise)
    other = torch.randn_like(noise)
    expected = sample(guided, DDIM(9), Planned(model, plan), other)
    torch.testing.assert_close(run(other), expected, rtol=1e-3, atol=1e-3)
    tiny.cpu()
