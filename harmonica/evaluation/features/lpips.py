"""LPIPS (Zhang et al. 2018): the distance of two images in AlexNet's features, by the lpips package."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

ALEXNET_WEIGHTS = "alexnet-owt-7be5be79.pth"  # torchvision's, of ImageNet
BATCH = 64


def get_lpips(weights: Path | None = None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS (n,) of uint8 images (n, H, W, 1 or 3) to others, version 0.1; its linear layers come with the package.

    Raises UserError if AlexNet's weights are missing or are of another network.
    """
    import lpips
    import torch

    from harmonica.models.downloads import require
    from harmonica.utils import UserError
    from harmonica.utils.devices import default_device
    from harmonica.utils.torch_files import load_torch

    path = weights or require(ALEXNET_WEIGHTS)
    state, device = load_torch(path), default_device()
    network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)  # else it downloads by itself
    features = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    for slice_ in (network.net.slice1, network.net.slice2, network.net.slice3, network.net.slice4, network.net.slice5):
        own = {f"{k}.{part}" for k, layer in slice_.named_children() for part in layer.state_dict()}
        try:
            slice_.load_state_dict({k: v for k, v in features.items() if k in own})
        except RuntimeError as e:
            raise UserError(f"{path} does not have AlexNet's weights ({str(e).splitlines()[-1].strip()})") from None
    network = network.to(device).eval()

    def prepared(images: np.ndarray):
        x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x.expand(-1, 3, -1, -1)

    @torch.inference_mode()
    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = range(0, len(a), BATCH)
        found = [network(prepared(a[i : i + BATCH]), prepared(b[i : i + BATCH])).flatten() for i in parts]
        return torch.cat(found).double().cpu().numpy()

    return distance
