"""The published implementations, recorded on a small DiT, are the judge of everything that has to be exact."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from baselines.learning_to_cache import pair
from harmonica import iepo
from harmonica.backbones.dit import DiT
from harmonica.convert import original_config, original_to_diffusers
from harmonica.executor import Plain, Planned, Soft
from harmonica.logits import Logits
from harmonica.plan import Origin
from harmonica.router import Router
from harmonica.samplers import DDIM
from harmonica.sampling import Guided, sample
from harmonica.sdt import trajectory

DATA = Path(__file__).parent / "data"


class Trace:
    def __init__(self, name: str):
        with safe_open(DATA / f"{name}.safetensors", "pt") as f:
            self.tensors = {k: f.get_tensor(k) for k in f.keys()}
            self.config = json.loads(f.metadata()["config"])
        weights = {k.removeprefix("weights."): v for k, v in self.tensors.items() if k.startswith("weights.")}
        config = original_config(weights, self.config["heads"])
        self.backbone = DiT(config, name, freq_shift=0).load_diffusers(original_to_diffusers(weights))
        self.sampler = DDIM(10)

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def guided(self, labels: torch.Tensor) -> Guided:
        return Guided(self.backbone, labels, self.config["cfg"], 3)

    def rows(self, key: str) -> torch.Tensor:
        """A recorded table, indexed by t, in execution order."""
        return self[key].flip(0)

    def weights(self, key: str) -> torch.Tensor:
        """Recorded λ for t = 0 … T−2 in execution order, with the 0 of the first step."""
        return torch.cat([torch.zeros(1), self[key].flip(0)])


@pytest.fixture(scope="module")
def harmonica_trace():
    return Trace("harmonica_dit_T10")


@pytest.fixture(scope="module")
def ltc_trace():
    return Trace("ltc_dit_T10")


@pytest.fixture(params=["harmonica_trace", "ltc_trace"])
def trace(request):
    return request.getfixturevalue(request.param)


def test_single_forward(trace):
    n = len(trace["labels"])
    x, both = torch.cat([trace["z"]] * 2), torch.cat([trace["labels"], torch.full((n,), 10)])
    with torch.no_grad():
        plain = Guided(trace.backbone, both, 1.0, 3)(x, 500, Plain(trace.backbone))
    torch.testing.assert_close(plain, trace["single_forward_t500"], atol=1e-5, rtol=0)


def test_kept_steps(trace):
    assert sorted(trace.sampler.timesteps) == trace["timestep_map"].tolist()


def test_ddim_uncached(trace):
    x = sample(trace.guided(trace["labels"]), trace.sampler, Plain(trace.backbone), trace["z"])
    torch.testing.assert_close(x, trace["ddim_uncached"], atol=1e-4, rtol=0)


def test_ddim_cached(trace):
    logits = trace.rows("router_logits").numpy().copy()
    if "ltc" in trace.backbone.shape.name:
        logits[::2] = 5.0  # only every second step is routed, and its cache is that of the step before
    router = Router(logits, Origin("trace", "ddim", 10, trace.config["cfg"], "recorded"))
    plan = router.plan(trace.config["thres"])
    assert plan.cur > 5
    x = sample(trace.guided(trace["labels"]), trace.sampler, Planned(trace.backbone, plan), trace["z"])
    torch.testing.assert_close(x, trace["ddim_cached"], atol=1e-4, rtol=0)


def test_official_lambda(harmonica_trace):
    t = harmonica_trace
    logits = Logits(t.rows("router_logits"), range(1, 10), lr=0.01)
    soft = Soft(t.backbone, t.config["thres"])
    measured = iepo.official(t.guided(t["labels"]), t.sampler, logits, soft, t["z"])
    torch.testing.assert_close(measured, t.weights("lambda_random_router"), rtol=2e-4, atol=1e-9)


def test_training_replays(harmonica_trace):
    """Four epochs end to end, with λ measured by this code: losses, routers and images follow the recorded ones."""
    t, c = harmonica_trace, harmonica_trace.config
    logits = Logits(t.rows("train.router_init"), range(1, 10), c["lr"])
    soft = Soft(t.backbone, c["thres"])
    for epoch in range(4):
        model, noise = t.guided(t[f"train.labels_{epoch}"]), t[f"train.noise_{epoch}"]
        soft.cache.clear()
        weights = iepo.official(model, t.sampler, logits, soft, noise)
        torch.testing.assert_close(weights, t.weights(f"train.lambda_{epoch}"), rtol=2e-4, atol=1e-9)
        x0, losses = trajectory(model, t.sampler, logits, soft, noise, weights, c["l1"])
        recorded = t["train.losses"][t["train.losses"][:, 0] == epoch]
        own = torch.tensor([[loss.data, loss.ratios, loss.total] for loss in losses])
        torch.testing.assert_close(own, recorded[:, [2, 4, 5]].float(), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(x0, t[f"train.x0_{epoch}"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(logits.numpy(), t.rows(f"train.router_after_{epoch}").numpy(), atol=1e-6)


def test_clean_start_differs(harmonica_trace):
    """The 0.67 % of stale features at the noisiest step are in the record: without them it is not matched."""
    t, c = harmonica_trace, harmonica_trace.config
    logits = Logits(t.rows("train.router_init"), range(1, 10), c["lr"])
    model, soft = t.guided(t["train.labels_0"]), Soft(t.backbone, c["thres"])
    args = (model, t.sampler, logits, soft, t["train.noise_0"], t.weights("train.lambda_0"), c["l1"])
    _, losses = trajectory(*args, stale=False)
    recorded = t["train.losses"][t["train.losses"][:, 0] == 0][:, 2].float()
    own = torch.stack([loss.data for loss in losses])
    assert ((own - recorded).abs() / recorded).max() > 0.01


def test_learning_to_cache_replays(ltc_trace):
    t, c = ltc_trace, ltc_trace.config
    logits = Logits(t.rows("train.router_init"), range(1, 10, 2), c["lr"])
    for row in t["train.losses"]:
        k = int(row[0])
        s = 10 - int(t[f"train.t_{k}"].flatten()[0])  # noised at countdown index t, routed at t − 1
        teacher, student = pair(
            t.backbone, t.sampler, logits, s, t[f"train.x_{k}"], t[f"train.y_{k}"], t[f"train.noise_{k}"]
        )
        loss = logits.learn(s, teacher, student, 1.0, c["l1"])
        torch.testing.assert_close(torch.stack(loss), row[[2, 3, 4]].float(), rtol=1e-4, atol=1e-8)
    final = next(k for k in sorted(t.tensors, reverse=True) if k.startswith("train.router_after"))
    routed = list(range(1, 10, 2))
    np.testing.assert_allclose(logits.numpy()[routed], t.rows(final).numpy()[routed], atol=1e-6)
