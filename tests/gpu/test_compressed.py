"""Quantised models at their true shape, on a GPU that is not there: devices, dtypes, no wait for the host, bytes."""

import pytest
import torch
from fake_gpu import GIB, backbone, batch, fake, half_reused

from baselines.compressions.diff_pruning import part_size, peak_bytes
from harmonica.compression.build import Clocked
from harmonica.compression.linear import Clock, QuantLinear
from harmonica.compression.places import Place, layers, replace
from harmonica.execution import Plain, Run
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
def test_sampling(name, monkeypatch):
    """Products of tokens are of integers; those of the conditions of eight images and halves, 16 rows, are not."""
    about = get_model(name)
    plan, sampler = half_reused(name, about.sampler, 2), make_sampler(about.sampler, 2, about.schedule)
    getattr(sampler, "scheduler", None)
    seen, own = [], torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: seen.append((len(a), a.dtype, b.dtype)) or own(a, b))
    with fake() as peak:
        model = quantised(name, torch.float16, 2)
        weights = peak.now
        start = batch(model, 8)
        sampled = Run(model, plan, start.labels)
        sampled.sampler = sampler
        latents = sampled(start.noise, start.seeds)
    assert latents.is_cuda and latents.dtype == torch.float32 and latents.shape[0] == 8
    own_bytes = sum(b.nbytes for m in model.modules() if isinstance(m, QuantLinear) for b in m.buffers())
    assert own_bytes < 0.65 * GIB and own_bytes < weights  # a byte a weight: DiT-XL/2's 675 M are 0.63 GiB
    assert {(a, b) for _, a, b in seen} == {(torch.int8, torch.int8)}
    if name == "dit-xl-2-256":
        assert len(seen) == 4 * 28 and {rows for rows, *_ in seen} == {8 * 2 * 256}


def test_training_after_pruning_fits():
    """An update of the published 128 images: DiT-XL/2's activations alone would take more than the card."""
    about = get_model("dit-xl-2-256")
    part = part_size(about.layout, 128, 72 * GIB)
    assert part == 64 and peak_bytes(about.layout, 128) > 72 * GIB
    with fake("cpu") as peak:
        model = backbone("dit-xl-2-256").requires_grad_(True)
        average = [p.detach().clone() for p in model.parameters()]
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
        for _ in range(2):  # the moments are made at the first
            start = batch(model, part)
            model.requires_grad_(True)
            out = Plain(model).evaluate(model, start.noise, 500.0, model.condition(start.labels))
            out[:, :4].square().mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        counted = peak.most
    assert len(average) > 100 and 0.75 * peak_bytes(about.layout, part) < counted <= peak_bytes(about.layout, part)
