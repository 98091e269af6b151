"""Guidance, and pixels from decoded latents."""

import torch

from harmonica.execution import Guided, Plain
from harmonica.execution.run import to_pixels
from harmonica.execution.seeds import noise_and_labels


def test_guidance_acts_on_three_channels(tiny):
    x, _ = noise_and_labels(0, 0, 2, tiny.latent_shape, 5)
    labels, null = torch.tensor([1, 2]), torch.tensor([5, 5])
    with torch.no_grad():
        cond, none = (Guided(tiny, y, 1.0, 3)(x, 500, Plain(tiny)) for y in (labels, null))
        out = Guided(tiny, labels, 4.0, 3)(x, 500, Plain(tiny))
    torch.testing.assert_close(out[:, :3], none[:, :3] + 4 * (cond - none)[:, :3], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out[:, 3:], cond[:, 3:], atol=1e-4, rtol=1e-4)


def test_pixels():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5)
    assert to_pixels(x).flatten().tolist() == [0, 0, 128, 255, 255]
