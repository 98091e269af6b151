"""Quantised models at their true shape, on a GPU that is not there: devices, dtypes, no wait for the host, bytes."""

import pytest
import torch
from fake_gpu import GIB, backbone, batch, fake, half_reused

from harmonica.compression.build import Clocked
from harmonica.compression.linear import Clock, QuantLinear
from harmonica.compression.places import Place, layers, replace
from harmonica.execution import Run
from harmonica.models import get_model
from harmonica.samplers import make_sampler


def quantised(name: str, dtype: torch.dtype, steps: int):
    """The model with int8 layers and scales per step, within `fake`."""
    model, clock = backbone(name, dtype), Clock(torch.zeros(steps))
    for layer, module, place in list(layers(model)):
        if place not in (Place.STREAM, Place.CONDITION):
            continue
        outputs, inputs = module.weight.shape
        own = {
            "integers": torch.zeros(outputs, inputs, dtype=torch.int8), "weight_scale": torch.ones(outputs),
            "weight_zero": torch.zeros(outputs, dtype=torch.int16), "act_scale": torch.ones(steps),
            "act_zero": torch.zeros(steps), "bias": module.bias,
        }  # fmt: skip
        replace(model, layer, QuantLinear(own, 8, clock))
    model.__class__ = type("Quantised", (Clocked, type(model)), {})
    vars(model)["clock"] = clock
    return model


@pytest.mark.parametrize("name", ["dit-xl-2-256", "pixart-alpha-256", "uvit-h-2-256"])
def test_sampling(name):
    about = get_model(name)
    plan, sampler = half_reused(name, about.sampler, 4), make_sampler(about.sampler, 4, about.schedule)
    getattr(sampler, "scheduler", None)
    with fake() as peak:
        model = quantised(name, torch.float16, 4)
        weights = peak.now
        start = batch(model, 8)
        sampled = Run(model, plan, start.labels)
        sampled.sampler = sampler
        latents = sampled(start.noise, start.seeds)
    assert latents.is_cuda and latents.dtype == torch.float32 and latents.shape[0] == 8
    own = sum(b.nbytes for m in model.modules() if isinstance(m, QuantLinear) for b in m.buffers())
    assert own < 0.65 * GIB and own < weights  # a byte a weight: DiT-XL/2's 675 M are 0.63 GiB


def test_products_of_a_gpu_are_integers():
    """Those of tokens are, those of the conditions of eight images and halves are not: they have 16 rows."""
    seen = []
    with fake():
        model = quantised("dit-xl-2-256", torch.float16, 4)
        own = torch._int_mm
        torch._int_mm = lambda a, b: seen.append((tuple(a.shape), a.dtype)) or own(a, b)
        try:
            start = batch(model, 8)
            sampled = Run(model, half_reused("dit-xl-2-256", "ddim", 2), start.labels)
            sampled(start.noise, start.seeds)
        finally:
            torch._int_mm = own
    assert len(seen) == 4 * 28 and {shape[0] for shape, _ in seen} == {8 * 2 * 256}
    assert {dtype for _, dtype in seen} == {torch.int8}
