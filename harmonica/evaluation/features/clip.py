"""The CLIP score of pictures and captions, by an open_clip model."""

import sys
from pathlib import Path

import numpy as np

from harmonica.models.catalog import TEXT_TO_IMAGE
from harmonica.models.shipped import verified_folder
from harmonica.utils import UserError, content_hash, file_hash, weights_folder
from harmonica.utils.precision import products

SHIPPED = "noto-emoji"  # the pocket scale's own two-tower model


class Clip:
    """Cosines between pictures and captions. Raises UserError if open_clip cannot load the model or its weights.

    `model` and `pretrained` are open_clip's names ("ViT-B-32-quickgelu", "openai"), or a file with the weights; the
    model `noto-emoji` is shipped. Without `pretrained`, another model has random weights. Raises UserError as well if
    the weights of a name were trained with another activation than the model has: every score would be off.
    """

    def __init__(self, model: str, pretrained: str = ""):
        import open_clip

        self.name = f"{model}/{pretrained}" if pretrained else model
        sha256 = file_hash(pretrained) if pretrained and Path(pretrained).is_file() else ""  # of a file
        if sha256:
            self.name = f"{model}/{Path(pretrained).name}-{sha256[:8]}"
        if pretrained and ":" in model:  # open_clip would ignore it, and draw weights at random where it finds none
            raise UserError(f"the CLIP model {model} is not one of open_clip's names: pass one, and its weights")
        source = f"local-dir:{verified_folder(TEXT_TO_IMAGE / 'clip')}" if model == SHIPPED else model
        options = {"pretrained": pretrained, "cache_dir": str(weights_folder() / "open_clip")} if pretrained else {}
        try:
            own, trained = open_clip.get_model_config(model) or {}, open_clip.get_pretrained_cfg(model, pretrained)
            if sha256:
                trained = _released(pretrained, sha256)
            other = own.get("quick_gelu", False) != trained.get("quick_gelu", False)
            if pretrained and other and (trained or not sha256):  # it only warns
                raise ValueError("its weights were trained with another GELU, see the models that end in -quickgelu")
            self.net, _, self.prepare = open_clip.create_model_and_transforms(source, **options)
            self.tokenize = open_clip.get_tokenizer(source)
        except Exception as e:  # open_clip and the hub's client raise many kinds
            raise UserError(f"open_clip cannot load {self.name} ({type(e).__name__}: {e})") from None
        from harmonica.utils.devices import default_device

        self.device = default_device()
        self.net = self.net.eval().to(self.device)
        self._text: dict[str, np.ndarray] = {}  # all methods share captions

    def cosines(self, images: np.ndarray, captions: list[str], batch: int = 100) -> np.ndarray:
        """Cosines float64 (n,) of pictures uint8 (n, H, W, 3) and their captions."""
        import torch
        from PIL import Image

        new = sorted(set(captions) - self._text.keys())
        with torch.inference_mode(), products("float32"):
            for i in range(0, len(new), batch):
                tokens = self.tokenize(new[i : i + batch]).to(self.device)
                features = self.net.encode_text(tokens, normalize=True).cpu().double().numpy()
                self._text.update(zip(new[i : i + batch], features, strict=True))
            parts = []
            for i in range(0, len(images), batch):
                x = torch.stack([self.prepare(Image.fromarray(p)) for p in images[i : i + batch]])
                parts.append(self.net.encode_image(x.to(self.device), normalize=True).cpu().double().numpy())
        text = np.stack([self._text[c] for c in captions])
        return (np.concatenate(parts) * text).sum(1)


def _released(path: str, sha256: str) -> dict:
    """What open_clip says of weights whose file this is, by the sha256 in their address; {} if it is of none, which is
    said."""
    import open_clip

    for model, tag in open_clip.list_pretrained():
        about = open_clip.get_pretrained_cfg(model, tag)
        if sha256 in about.get("url", ""):
            return about
    print(f"{path}: whether it was trained with this model's activation cannot be told from a file", file=sys.stderr)
    return {}


def fingerprint(about: dict[str, str] | None) -> str:
    """Content hash of the shipped model if the configuration names it, else empty."""
    if not about or about["model"] != SHIPPED:
        return ""
    return content_hash(*(TEXT_TO_IMAGE / "clip").iterdir())
