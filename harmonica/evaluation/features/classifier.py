"""The small CNN whose features take the place of Inception's at the pocket scale."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harmonica.evaluation.features.base import Features, check_images
from harmonica.models.shipped import verified
from harmonica.models.state_dicts import read_state
from harmonica.utils.devices import default_device
from harmonica.utils.images import to_float
from harmonica.utils.precision import products


class Classifier(nn.Module):
    """32x32 images to class logits, with the two feature maps the metrics need.

    `forward` takes (n, channels, 32, 32) in [-1, 1] and returns pooled features (n, 128), spatial features (n, 8*8*7)
    and logits (n, classes). The spatial features are the first seven channels of a mid layer in NHWC order, as sFID
    takes them from Inception's mixed_6/conv.
    """

    def __init__(self, classes: int = 10, channels: int = 1):
        super().__init__()

        def conv(i, o, stride=1):
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

        self.low = nn.Sequential(conv(channels, 32), conv(32, 32, 2), conv(32, 64), conv(64, 64, 2))  # (n, 64, 8, 8)
        self.high = nn.Sequential(conv(64, 128), conv(128, 128, 2), conv(128, 128))  # (n, 128, 4, 4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        low = self.low(x)
        spatial = low[:, :7].permute(0, 2, 3, 1).flatten(1)
        pooled = self.high(low).mean((2, 3))
        return pooled, spatial, self.head(self.drop(pooled))


def classifier_features(folder: Path) -> Callable[[np.ndarray], Features]:
    """Features of uint8 (n, 32, 32, C) by the classifier in a pocket folder. Raises UserError if it is missing or
    damaged."""
    weights = read_state(verified(folder / "classifier" / "model.safetensors"))
    channels = weights["low.0.0.weight"].shape[1]
    net = Classifier(classes=len(weights["head.bias"]), channels=channels).eval()
    net.load_state_dict(weights)
    net = net.to(default_device()).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        check_images(images, f"the classifier of {folder.name}", channels, 32)
        with products("float32"):
            parts = [net(to_float(images[i : i + 250]).to(default_device())) for i in range(0, len(images), 250)]
        return Features(*(torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True)))

    return extract
