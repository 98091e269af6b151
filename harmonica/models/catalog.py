"""The models by name, with their official protocols, those of other packages, and users' own."""

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from harmonica.models import own
from harmonica.models.captions import CaptionList
from harmonica.models.spec import Model
from harmonica.utils import POCKET, UserError, plugins, unknown

CLASS_CONDITIONAL, TEXT_TO_IMAGE, LONG_SKIPS = (
    POCKET / "fashion-mnist",
    POCKET / "noto-emoji",
    POCKET / "fashion-mnist-uvit",
)
_SD_VAE = dict(
    in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, norm_num_groups=32,
    block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip
_SDXL_VAE = _SD_VAE | {"scaling_factor": 0.13025}
_DIT_XL_2 = dict(
    num_attention_heads=16, attention_head_dim=72, num_layers=28, in_channels=4, out_channels=8, patch_size=2,
    num_embeds_ada_norm=1000, norm_eps=1e-6,
)  # fmt: skip
_PIXART_XL_2 = dict(
    num_attention_heads=16, attention_head_dim=72, num_layers=28, in_channels=4, out_channels=8, patch_size=2,
    cross_attention_dim=1152, caption_channels=4096, norm_eps=1e-6,
)  # fmt: skip
_UVIT_H_2 = dict(
    img_size=32, patch_size=2, in_chans=4, embed_dim=1152, depth=28, num_heads=16, mlp_ratio=4, qkv_bias=False,
    num_classes=1001,
)  # fmt: skip


def _dit_xl_2(resolution: int, reference: str) -> Model:
    config = _DIT_XL_2 | {"sample_size": resolution // 8}
    name = f"dit-xl-2-{resolution}"
    return Model(name, "DiT-XL/2", resolution, f"facebook/DiT-XL-2-{resolution}", "paper",
                 "inception-2015-12-05", original=f"{name}.pt", hub_config=tuple(config.items()),
                 vae_config=tuple(_SD_VAE.items()), reference=reference)  # fmt: skip


def _pixart(kind: str, resolution: int, repository: str) -> Model:
    sigma = kind == "sigma"
    config = _PIXART_XL_2 | {
        "sample_size": resolution // 8,
        "use_additional_conditions": not sigma and resolution == 1024,
    }
    companion = "pixart_sigma_sdxlvae_T5_diffusers" if sigma else "PixArt-XL-2-1024-MS"
    vae = _SDXL_VAE if sigma else _SD_VAE
    size = "2k" if resolution == 2048 else resolution
    return Model(f"pixart-{kind}-{size}", f"PixArt-{'Σ' if sigma else 'α'}", resolution, f"PixArt-alpha/{repository}",
                 "paper", "inception-2015-12-05", "pixart", "dpmsolver++", 4.5, captions=_COCO,
                 text_tokens=300 if sigma else 120, companion=f"PixArt-alpha/{companion}",
                 hub_config=tuple(config.items()), vae_config=tuple(vae.items()),
                 reference="coco-2014-val")  # fmt: skip


_EMOJI = CaptionList("noto-emoji", str(TEXT_TO_IMAGE / "captions.csv"), 400)
_COCO = CaptionList("coco-2014-val", "coco-2014-val.txt", 30_000)
MODELS = {
    m.name: m
    for m in (
        Model("pocket-dit", "pocket DiT", 32, str(CLASS_CONDITIONAL), "pocket", "fashion-mnist-cnn", cfg=1.3,
              data="fashion-mnist"),
        Model("pocket-pixart", "pocket PixArt", 32, str(TEXT_TO_IMAGE), "pocket", "noto-emoji-cnn", "pixart",
              "dpmsolver++", 4.5, captions=_EMOJI, text_tokens=24, data="noto-emoji"),
        Model("pocket-uvit", "pocket U-ViT", 32, str(LONG_SKIPS), "pocket", "fashion-mnist-cnn", "uvit",
              "dpm-solver", 1.4, "scaled_linear", companion=str(CLASS_CONDITIONAL), data="fashion-mnist"),
        _dit_xl_2(256, "VIRTUAL_imagenet256_labeled.npz"),
        _dit_xl_2(512, "VIRTUAL_imagenet512.npz"),
        Model("uvit-h-2-256", "U-ViT-H/2", 256, "", "paper", "inception-2015-12-05", "uvit",
              "dpm-solver", 1.4, "scaled_linear", companion="facebook/DiT-XL-2-256",
              original="imagenet256_uvit_huge.pth", hub_config=tuple(_UVIT_H_2.items()),
              vae_config=tuple(_SD_VAE.items()), reference="VIRTUAL_imagenet256_labeled.npz"),
        _pixart("alpha", 256, "PixArt-XL-2-256x256"),
        _pixart("alpha", 512, "PixArt-XL-2-512x512"),
        _pixart("alpha", 1024, "PixArt-XL-2-1024-MS"),
        _pixart("sigma", 512, "PixArt-Sigma-XL-2-512-MS"),
        _pixart("sigma", 1024, "PixArt-Sigma-XL-2-1024-MS"),
        _pixart("sigma", 2048, "PixArt-Sigma-XL-2-2K-MS"),
    )
}  # fmt: skip


NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # of a model: it names files


@cache
def offered() -> dict[str, Model]:
    """The models of other packages by name: an entry point of `harmonica.models` is a Model, some of them, or a
    function that gives either. One that cannot be used is left out, and said so."""
    found: dict[str, Model] = {}
    for point in plugins.entry_points("harmonica.models"):
        try:
            for model in _of_entry_point(point):
                if model.name in MODELS:
                    raise plugins.refused(point, f"offers {model.name!r}, a name that is taken")
                plugins.take(found, model.name, replace(model, own=True), point)
        except plugins.Refused as e:
            print(f"harmonica: {e}", file=sys.stderr)
    return found


def _of_entry_point(point) -> list[Model]:
    try:
        given = point.load()
        given = given() if callable(given) else given
        models = [given] if isinstance(given, Model) else list(given) if isinstance(given, Iterable) else []
    except Exception as e:  # any mistake in somebody else's package
        raise plugins.refused(point, f"cannot be used ({type(e).__name__}: {e})") from None
    if not models or not all(isinstance(m, Model) for m in models):
        raise plugins.refused(point, "offers no harmonica.models.Model")
    for m in models:
        if not NAME.fullmatch(m.name):
            raise plugins.refused(point, f"offers {m.name!r}: a name has letters, digits, `-`, `_` and `.`")
    return models


def get_model(name: str) -> Model:
    """The model of that name, or in that folder (see `own`). Raises UserError for an unknown one."""
    if name in MODELS:
        return MODELS[name]
    if name in offered():
        return offered()[name]
    found = own.find(name)
    if found is None:
        raise unknown("model", name, [*MODELS, *offered()])
    return found


def known(name: str) -> Model | None:
    """The model of that name; None if it is unknown, or no longer where it was."""
    try:
        return get_model(name)
    except UserError:
        return None
