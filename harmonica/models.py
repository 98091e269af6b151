"""The models the suite knows. This module needs no torch: a plan is made, checked and counted without weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harmonica.errors import UserError, unknown
from harmonica.pocket import CLASS_CONDITIONAL
from harmonica.provenance import digest, source_hash
from harmonica.shape import Shape, dit_shape

_SD_VAE = dict(
    in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, norm_num_groups=32,
    block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip
_DIT_XL_2 = dict(
    num_attention_heads=16, attention_head_dim=72, num_layers=28, in_channels=4, out_channels=8, patch_size=2,
    num_embeds_ada_norm=1000, norm_eps=1e-6,
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One model: where its weights are and what its official protocol fixes."""

    name: str
    title: str
    resolution: int
    source: str  # a diffusers folder, or a hub repository
    scale: str  # "pocket" or "paper"
    extractor: str  # the feature network of its metrics
    guidance_channels: int = 3  # official DiT code guides three of the four latent channels
    original: bool = False  # weights of the original DiT code, see backbones/dit.py
    hub_config: tuple[tuple[str, int], ...] = ()  # for a hub model: the configuration, known without a download
    revision: str = "main"  # of the hub repository
    reference: str = ""  # file of reference statistics, where the extractor does not bring its own

    @property
    def hub(self) -> bool:
        """Whether the weights are to be fetched."""
        return bool(self.hub_config)

    @property
    def config(self) -> dict:
        """The backbone's configuration. Raises UserError when a local folder lacks it."""
        if self.hub:
            return dict(self.hub_config)
        path = Path(self.source) / "transformer" / "config.json"
        if not path.is_file():
            raise UserError(f"{path} is missing: make the pocket models with `harmonica pocket train`")
        return json.loads(path.read_text())

    @cached_property
    def shape(self) -> Shape:
        return dit_shape(self.title, self.config)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, the training images and the protocol: twelve hex digits. A hub model is known by
        its repository's name."""
        weights = self.source
        if not self.hub:
            folder = Path(self.source)
            files = [p for part in ("transformer", "vae") for p in (folder / part).iterdir()]
            weights = source_hash(*map(str, files + list(folder.glob("train_images.npz"))))
        return digest([weights, self.guidance_channels, self.original])

    def load_backbone(self):
        """The backbone with its weights, float32, ready for inference on the GPU where there is one."""
        from harmonica.backbones.dit import load_dit
        from harmonica.devices import default_device

        backbone = load_dit(self.folder("transformer"), self.title, original=self.original)
        return backbone.to(default_device())

    def build_backbone(self):
        """The backbone at its true shape with random weights."""
        from harmonica.backbones.dit import DiT, sincos_position

        backbone = DiT(self.config, self.title, original=self.original)
        backbone.position.copy_(sincos_position(backbone.width, backbone.grid))
        return backbone

    def build_autoencoder(self):
        """Stable Diffusion's autoencoder, which the hub's models use, with random weights."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**_SD_VAE, sample_size=self.resolution).eval().requires_grad_(False)

    def load_autoencoder(self):
        """The AutoencoderKL, float32, ready for inference, on the same device."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        from harmonica.devices import default_device

        return AutoencoderKL.from_pretrained(self.folder("vae")).eval().requires_grad_(False).to(default_device())

    def load_decoder(self) -> Callable:
        """A function from latents (n, 4, h, w), unit variance, to images (n, C, H, W) in [-1, 1]."""
        return decoder(self.load_autoencoder())

    def folder(self, part: str) -> Path:
        """The local folder of one component. Raises UserError when a hub model's has not been fetched."""
        if not self.hub:
            return Path(self.source) / part
        from harmonica.downloads import weights_folder

        folder = weights_folder() / self.name / part
        if not folder.is_dir():
            raise UserError(
                f"{folder} is missing: run `harmonica fetch {self.name}`, which says what to do without network"
            )
        return folder


def decoder(vae) -> Callable:
    """Decoding by an AutoencoderKL, as `Model.load_decoder` has it."""
    return lambda latents: vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]


def _dit_xl_2(resolution: int, reference: str) -> Model:
    config = _DIT_XL_2 | {"sample_size": resolution // 8}
    return Model(f"dit-xl-2-{resolution}", "DiT-XL/2", resolution, f"facebook/DiT-XL-2-{resolution}", "paper",
                 "inception-2015-12-05", original=True, hub_config=tuple(config.items()),
                 reference=reference)  # fmt: skip


MODELS = {
    m.name: m
    for m in (
        Model("pocket-dit", "pocket DiT", 32, str(CLASS_CONDITIONAL), "pocket", "fashion-mnist-cnn"),
        _dit_xl_2(256, "VIRTUAL_imagenet256_labeled.npz"),
        _dit_xl_2(512, "VIRTUAL_imagenet512.npz"),
    )
}


def get_model(name: str) -> Model:
    """The model of that name. Raises UserError for an unknown one."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]
