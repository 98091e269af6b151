"""Compiled branches give what plans give, from as many graphs as there are kinds of branches. Most tests have
torch.compile trace a branch and run it without code of its own, which is quick."""

import copy

import numpy as np
import pytest
import torch
from conftest import protocol
from tiny_pixart import pair, prompts
from torch._subclasses.fake_tensor import FakeTensorMode

from harmonica.backbones.base import CaptionsInMemory
from harmonica.backbones.uvit import UViT
from harmonica.execution import Planned, Run
from harmonica.models import get_model
from harmonica.models.random_weights import build_backbone
from harmonica.plan import FORECAST, REUSE, SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED, Plan, all_compute
from harmonica.runtimes.compiled_branches import CompiledBranches
from harmonica.utils import UserError

LABELS = torch.tensor([0, 2, 3])
KINDS = {"dit": 2, "uvit": 2, "pixart": 3}
UVIT = dict(
    img_size=4, patch_size=2, in_chans=4, embed_dim=16, depth=4, num_heads=2, mlp_ratio=4, qkv_bias=False, num_classes=6
)  # fmt: skip


@pytest.fixture(params=KINDS)
def model(request, tiny):
    if request.param == "dit":
        return tiny
    if request.param == "pixart":
        own = pair()[1]
        own.conditioning = CaptionsInMemory(*prompts(5))
        return own
    torch.manual_seed(0)
    own = UViT(UVIT, "tiny").eval().requires_grad_(False)
    for p in own.parameters():
        p.normal_(std=0.25)
    return own


class Counted:
    """A backend that runs a graph as it was traced."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append((graph, inputs))
        return graph.forward


def some_plans(model):
    """Uncached, single branches, whole blocks and steps, spans of each kind that the model has."""
    branches, rng = len(model.layout.branches), np.random.default_rng(0)
    each = branches // len(model.layout.blocks)
    yield all_compute(protocol(2), branches)
    actions = np.zeros((5, branches), np.uint8)
    actions[1:] = np.where(rng.random((4, branches)) < 0.4, REUSE, 0)
    yield Plan(actions, protocol(5))
    forecasts = np.where(actions, FORECAST, 0).astype(np.uint8)
    forecasts[1] = 0
    yield Plan(forecasts, protocol(5), weights=np.full((5, 1, 2), (1.5, -0.5)))
    spans = (SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED) if model.layout.condition_tokens else (SPAN_DELTA, SPAN_OUTPUT)
    for span in spans:
        actions = np.zeros((4, branches), np.uint8)
        actions[1:3, : branches - each] = span
        actions[3] = REUSE
        yield Plan(actions, protocol(4))


def assert_same(model, plan, policy, batch=3):
    """The latents of a batch under both policies, twice each, and their measured reuse."""
    noise, own = torch.randn(batch, *model.latent_shape), Planned(model, plan)
    labels = LABELS[torch.arange(batch) % 3]
    runs = Run(model, plan, labels, own), Run(model, plan, labels, policy)
    for _ in range(2):
        expected, found = (run(noise) for run in runs)
        torch.testing.assert_close(found, expected, rtol=0, atol=float(1e-5 * expected.abs().max()))
    assert policy.cache.cur == own.cache.cur and policy.cache.peak_bytes == own.cache.peak_bytes


def test_a_graph_per_kind_serves_every_plan(model, request):
    kinds = KINDS[request.node.callspec.params["model"]]
    branches = CompiledBranches(model, backend=(counted := Counted()))
    for plan in some_plans(model):
        assert_same(model, plan, branches.policy(plan))
        assert len(counted.graphs) == kinds


def test_each_size_of_batch_is_another_graph(tiny):
    """More than the eight that torch.compile holds for one function."""
    branches, plan = CompiledBranches(tiny, backend=(counted := Counted())), all_compute(protocol(1), 6)
    for batch in range(1, 11):
        assert_same(tiny, plan, branches.policy(plan), batch)
        assert len(counted.graphs) == 2 * batch


def test_weights_may_change(tiny):
    """In place, and for others."""
    model = copy.deepcopy(tiny)
    branches, plan = CompiledBranches(model, backend=(counted := Counted())), all_compute(protocol(2), 6)
    assert_same(model, plan, branches.policy(plan))
    for p in model.parameters():
        p.mul_(-0.5)
    assert_same(model, plan, branches.policy(plan))
    model.load_state_dict({name: w * 2 for name, w in model.state_dict().items()}, assign=True)
    assert_same(model, plan, branches.policy(plan))
    assert len(counted.graphs) == 2


def test_a_backbone_of_another_kind(tiny):
    branches = CompiledBranches(tiny, backend="eager")
    with pytest.raises(UserError, match="branches with a dict of builtins cannot be compiled by kind"):
        branches(0, torch.zeros(1, 4, 16), {})


def test_at_the_true_size_on_a_gpu():
    """DiT-XL/2 on tensors of a GPU without data: two graphs for 28 blocks and two plans, weights among their inputs."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = build_backbone(get_model("dit-xl-2-256")).eval().requires_grad_(False)
        branches = CompiledBranches(model, backend=(counted := Counted()))
        actions = np.zeros((2, 56), np.uint8)
        for reused in (0, 20):
            actions[1, :reused] = REUSE
            plan = Plan(actions.copy(), protocol(2))
            labels, noise = torch.zeros(2, dtype=torch.long), torch.randn(2, *model.latent_shape)
            latents = Run(model, plan, labels, branches.policy(plan))(noise)
            assert latents.shape == (2, 4, 32, 32) and latents.is_cuda
    assert len(counted.graphs) == 2
    shapes = [{tuple(x.shape) for x in inputs} for _, inputs in counted.graphs]
    assert (3 * 1152, 1152) in shapes[0] and (4 * 1152, 1152) in shapes[1]
    assert all(x.is_cuda for _, inputs in counted.graphs for x in inputs)


@pytest.fixture
def untranslated(monkeypatch):
    """The graphs that reach Inductor, which are run as they are."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", counted := Counted())
    return counted.graphs


def test_products_on_a_cpu_are_onednns(model, request, untranslated):
    """All of the stream, with GELU in those before it; not those of the condition, which have few rows."""
    branches = CompiledBranches(model)
    for plan in some_plans(model):
        assert_same(model, plan, branches.policy(plan))
    targets = [node.target for graph, _ in untranslated for node in graph.graph.nodes]
    assert targets.count(torch.ops.harmonica.linear.default) == 2 * KINDS[request.node.callspec.params["model"]]
    assert targets.count(torch._C._nn.linear) == (2 if request.node.callspec.params["model"] == "dit" else 0)
    assert torch._C._nn.gelu not in targets


@pytest.mark.slow
def test_generated_code(model):
    branches = CompiledBranches(model)
    for plan in some_plans(model):
        assert_same(model, plan, branches.policy(plan))
    run = Run(model, plan, LABELS, branches.policy(plan))
    with torch.profiler.profile() as seen:
        run(torch.randn(3, *model.latent_shape))
    computed = (plan.actions == 0).sum()
    assert {event.key: event.count for event in seen.key_averages()}["mkldnn::_linear_pointwise"] == 2 * computed
