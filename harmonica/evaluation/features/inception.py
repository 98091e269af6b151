"""The Inception network of the ADM protocol, by torch-fidelity, with spatial features for sFID."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from harmonica.evaluation.features.base import Features, check_images
from harmonica.utils.devices import default_device
from harmonica.utils.precision import products
from harmonica.utils.torch_files import load_torch

BATCH = 50


def inception_features(weights: Path) -> Callable[[np.ndarray], Features]:
    """Features of uint8 (n, H, W, 3): pool_3 (n, 2048); the first 7 channels of mixed_6/conv, 17×17 in NHWC order,
    (n, 2023); 1008 logits without bias. The network resizes to 299 as TensorFlow 1 did, without antialiasing.

    `weights` is torch-fidelity's conversion of the 2015-12-05 graph. Raises UserError if it is damaged.
    """
    load_torch(weights)  # torch-fidelity itself would run code in a pickle
    net = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights)).to(default_device())
    forward = with_spatial(net)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        check_images(images, "Inception", 3)
        parts = []
        with products("float32"):
            for i in range(0, len(images), BATCH):
                x = torch.from_numpy(images[i : i + BATCH]).to(default_device())
                parts.append([v.cpu() for v in forward(x)])
        return Features(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))

    return extract


def with_spatial(net: FeatureExtractorInceptionV3) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """A function from uint8 (n, H, W, 3) to pooled and spatial features and logits, on the network's device."""
    seen: list[torch.Tensor] = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: seen.append(out[:, :7].permute(0, 2, 3, 1)))

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pooled, logits = net(images.permute(0, 3, 1, 2))
        return pooled, seen.pop().flatten(1), logits

    return forward


def save_random_weights(path: Path, seed: int = 0) -> None:
    """Write random weights, to test the wiring without the real ones."""

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    torch.manual_seed(seed)
    torch.save({}, path)
    torch.save(Unloaded("inception", ["2048"], str(path)).state_dict(), path)
