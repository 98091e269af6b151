"""The PixArt backbone against diffusers' class on random weights, with and without micro-conditions."""

import pytest
import torch
from tiny_pixart import pair, prompts

from harmonica.execution import Plain
from harmonica.execution.executor import evaluate

VARIANTS = ({}, {"use_additional_conditions": True}, {"interpolation_scale": 2}, {"sample_size": 128, "num_layers": 1})


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("t", [0, 37, 999])
def test_equals_diffusers(changes, t):
    theirs, own = pair(**changes)
    side = own.side
    x = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(2))
    text, mask = prompts(3)
    added = {"resolution": None, "aspect_ratio": None}
    if own.sized:
        added = {"resolution": torch.full((3, 2), 8.0 * side), "aspect_ratio": torch.ones(3, 1)}
    with torch.no_grad():
        expected = theirs(
            x, text, timestep=torch.full((3,), t), encoder_attention_mask=mask, added_cond_kwargs=added
        ).sample
        found = evaluate(own, x, t, own.read(text, mask), Plain(own))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_padding_says_nothing():
    _, own = pair()
    text, mask = prompts(2)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    noisy = torch.where(mask[..., None].bool(), text, 9.0)
    with torch.no_grad():
        a, b = (evaluate(own, x, 500, own.read(e, mask), Plain(own)) for e in (text, noisy))
    assert torch.equal(a, b)


def test_macs_are_those_of_the_products_that_run():
    """Counted by torch for one image: attention of all heads included, adaLN and embeddings as they run."""
    from torch.utils.flop_counter import FlopCounterMode

    _, own = pair()
    text, mask = prompts(1)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as once:
        condition = own.read(text, mask)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        evaluate(own, x, 500, condition, Plain(own))
    assert once.get_total_flops() == 2 * own.layout.once_macs
    assert step.get_total_flops() == 2 * own.layout.macs
