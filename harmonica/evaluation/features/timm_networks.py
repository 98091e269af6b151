"""Networks of timm as feature networks: for images that neither Inception nor a shipped classifier is for.

Pooled features are those before the classifier, spatial ones the first seven channels of the last map, by place, as
sFID takes them from a layer of Inception. IS needs a network with a classifier. Numbers are comparable with each other,
at equal numbers of images, and not with those of any other network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harmonica.evaluation.features.base import Features, check_images
from harmonica.models.state_dicts import read_state
from harmonica.utils import UserError, unknown
from harmonica.utils.devices import default_device
from harmonica.utils.precision import products

BATCH = 50
CHANNELS = 7  # of the spatial features


def timm_features(name: str, weights: Path) -> Callable[[np.ndarray], Features]:
    """Features of uint8 (n, H, W, 3) by timm's network `name`, resized to its side. Its weights are in the file
    `weights`, or fetched by timm if there is none. Raises UserError for an unknown network, or one without a
    classifier, and for weights that cannot be had or do not fit."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise unknown("network of timm", name, timm.list_models())
    net = _loaded(name, weights)
    about = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(about[k], device=default_device()).view(1, 3, 1, 1) for k in ("mean", "std"))
    side = about["input_size"][1:]
    if not getattr(net, "num_classes", 0):
        raise UserError(f"timm's {name} has no classifier, which the inception score needs")

    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.interpolate(x.float() / 255, side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        found = net.forward_features((x - mean) / std)
        pooled, logits = net.forward_head(found, pre_logits=True), net.forward_head(found)
        return pooled.flatten(1), _spatial(found), logits

    @torch.inference_mode()
    def extract(images: np.ndarray) -> Features:
        check_images(images, f"timm's {name}", 3)
        parts = []
        with products("float32"):
            for i in range(0, len(images), BATCH):
                x = torch.from_numpy(images[i : i + BATCH]).to(default_device()).permute(0, 3, 1, 2)
                parts.append([v.cpu() for v in forward(x)])
        return Features(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))

    return extract


def _spatial(found: Tensor) -> Tensor:
    """The first channels of a map (n, C, h, w), or of tokens (n, N, C), by place: (n, places · channels)."""
    if found.ndim == 4:
        found = found.permute(0, 2, 3, 1)
    return found[..., :CHANNELS].flatten(1)


def _loaded(name: str, weights: Path) -> Any:
    import timm

    if weights.is_file():
        net = timm.create_model(name)
        try:
            net.load_state_dict(read_state(weights))
        except (RuntimeError, KeyError) as e:
            raise UserError(f"{weights} is not of timm's {name} ({str(e).splitlines()[0]})") from None
    else:
        try:
            net = timm.create_model(name, pretrained=True)
        except Exception as e:  # of the network, the hub's library, or a network without weights
            raise UserError(
                f"timm cannot fetch the weights of {name} ({type(e).__name__}): put them into {weights}"
            ) from None
    return net.eval().requires_grad_(False).to(default_device())
