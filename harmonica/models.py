"""The models the suite knows. This module needs no torch: a plan is made, checked and counted without weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harmonica.captions import CaptionList, embedded, embeddings_folder
from harmonica.errors import UserError, unknown
from harmonica.pocket import CLASS_CONDITIONAL, LONG_SKIPS, TEXT_TO_IMAGE
from harmonica.precision import precision
from harmonica.provenance import digest, source_hash, weights_folder
from harmonica.shape import Shape, dit_shape, pixart_shape, uvit_shape

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


@dataclass(frozen=True)
class Model:
    """One model: where its weights are and what its official protocol fixes."""

    name: str
    title: str
    resolution: int
    source: str  # a diffusers folder, or a hub repository
    scale: str  # "pocket" or "paper"
    extractor: str  # the feature network of its metrics
    kind: str = "dit"  # of backbone: "dit", "pixart" or "uvit"
    sampler: str = "ddim"  # what it is mostly sampled with, and at which guidance scale
    cfg: float = 1.5
    captions: CaptionList | None = None
    text_tokens: int = 0  # captions are padded or cut to so many
    companion: str = ""  # folder or repository of autoencoder and text encoder, where it is not `source`
    vae_config: tuple = ()  # of a hub model
    original: str = ""  # file that an original checkpoint of the transformer may be put in; see backbones/dit.py, too
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
        if self.kind == "pixart":
            return pixart_shape(self.title, self.config, self.text_tokens)
        return {"dit": dit_shape, "uvit": uvit_shape}[self.kind](self.title, self.config)

    def guided_channels(self, sampler: str) -> int:
        """Latent channels that guidance acts on. The official DiT code guides three of four, and so does PixArt's with
        IDDPM; with the other samplers PixArt's guides all, and so does U-ViT's."""
        return 3 if self.kind == "dit" or sampler == "iddpm" else 4

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, the training images, the protocol and the precision: twelve hex digits. A hub
        model is known by its repository's name."""
        weights = self.source
        if not self.hub:
            files = [p for part in ("transformer", "vae") for p in self.folder(part).iterdir()]
            weights = source_hash(*map(str, files + list(self.folder("vae").parent.glob("train_images.npz"))))
        about = [weights, bool(self.original)]
        if self.captions:
            about.append(self.captions.name if self.hub else embeddings_folder(self).name)
        if precision() != "float32":
            about.append(precision())
        return digest(about)

    @cached_property
    def text_encoder_fingerprint(self) -> str:
        """Changes with the text encoder, as `fingerprint` does with the rest."""
        if self.hub:
            return self.companion or self.source
        parts = [Path(self.source) / part for part in ("text_encoder", "tokenizer")]
        return source_hash(*(str(p) for part in parts for p in part.iterdir()))

    def load_backbone(self, kept_in: str | None = None):
        """The backbone with its weights, in the asked `precision` unless another is given, ready for inference on the
        GPU where there is one."""
        import torch

        from harmonica.backbones.dit import DiT
        from harmonica.backbones.parts import in_precision, load
        from harmonica.backbones.pixart import PixArt
        from harmonica.backbones.uvit import UViT
        from harmonica.devices import default_device

        kind, options = {"dit": (DiT, {"original": bool(self.original)}), "uvit": (UViT, {}),
                         "pixart": (PixArt, {"text_tokens": self.text_tokens})}[self.kind]  # fmt: skip
        backbone = load(kind, self.folder("transformer"), self.title, **options).to(default_device())
        if self.captions:
            backbone.captions = embedded(self)
        return in_precision(backbone, getattr(torch, kept_in or precision()))

    @property
    def depth(self) -> int:
        """Blocks; U-ViT's own figure leaves out the one in the middle."""
        return self.config["depth" if self.kind == "uvit" else "num_layers"]

    def build_backbone(self, depth: int | None = None):
        """The backbone at its true shape with random weights, or with fewer blocks."""
        from harmonica.backbones.dit import DiT
        from harmonica.backbones.parts import sincos_position
        from harmonica.backbones.pixart import PixArt
        from harmonica.backbones.uvit import UViT

        config = self.config | {"depth" if self.kind == "uvit" else "num_layers": depth or self.depth}
        if self.kind == "pixart":
            return PixArt(config, self.title, self.text_tokens)
        if self.kind == "uvit":
            return UViT(config, self.title)
        backbone = DiT(config, self.title, original=bool(self.original))
        backbone.position.copy_(sincos_position(backbone.width, backbone.grid))
        return backbone

    def build_autoencoder(self):
        """The autoencoder of a hub model with random weights."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**dict(self.vae_config), sample_size=self.resolution).eval().requires_grad_(False)

    def load_text_encoder(self) -> Callable:
        """A function from captions to embeddings (n, L, C) and masks (n, L), L = `text_tokens`.

        Captions are lower-cased and stripped; diffusers' pipelines do the same with `clean_caption=False`.
        """
        import torch
        from transformers import AutoTokenizer, T5EncoderModel

        from harmonica.devices import default_device

        tokenizer = AutoTokenizer.from_pretrained(self.folder("tokenizer"))
        half = torch.float16 if self.hub else torch.float32
        encoder = T5EncoderModel.from_pretrained(self.folder("text_encoder"), dtype=half).eval().to(default_device())

        @torch.inference_mode()
        def encode(captions: list[str]):
            tokens = tokenizer(
                [c.lower().strip() for c in captions], padding="max_length", max_length=self.text_tokens,
                truncation=True, return_tensors="pt",
            ).to(encoder.device)  # fmt: skip
            return encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask

        return encode

    @property
    def weight_bytes(self) -> int:
        """Of the backbone, float32."""
        import torch

        with torch.device("meta"):
            return 4 * sum(p.numel() for p in self.build_backbone().parameters())

    def load_autoencoder(self):
        """The AutoencoderKL, float32, ready for inference, on the same device."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        from harmonica.devices import default_device

        return AutoencoderKL.from_pretrained(self.folder("vae")).eval().requires_grad_(False).to(default_device())

    def load_decoder(self) -> Callable:
        """A function from latents (n, 4, h, w), unit variance, to images (n, C, H, W) in [-1, 1]."""
        return decoder(self.load_autoencoder())

    @property
    def parts(self) -> tuple[str, ...]:
        """The components of the pipeline, diffusers' names."""
        return ("transformer", "vae") + (("text_encoder", "tokenizer") if self.captions else ())

    def place(self, part: str) -> Path:
        """Where one component of a hub model lies, or is to lie."""
        return weights_folder() / self.folder_name(part) / part

    def folder(self, part: str) -> Path:
        """The local folder of one component. Raises UserError when a hub model's has not been fetched."""
        if not self.hub:
            return Path(self.repository(part)) / part
        folder = self.place(part)
        if not folder.is_dir():
            raise UserError(
                f"{folder} is missing: run `harmonica fetch {self.name}`, which says what to do without network"
            )
        return folder

    def folder_name(self, part: str) -> str:
        """Of a hub model: models that share autoencoder and text encoder share their folder, too."""
        repository = self.repository(part)
        return self.name if repository == self.source else repository.split("/")[1].lower()

    def repository(self, part: str) -> str:
        """The hub repository, or local folder, that has one component."""
        return self.companion if self.companion and part != "transformer" else self.source


def decoder(vae) -> Callable:
    """Decoding by an AutoencoderKL, as `Model.load_decoder` has it."""
    return lambda latents: vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]


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
        Model("pocket-dit", "pocket DiT", 32, str(CLASS_CONDITIONAL), "pocket", "fashion-mnist-cnn"),
        Model("pocket-pixart", "pocket PixArt", 32, str(TEXT_TO_IMAGE), "pocket", "noto-emoji-cnn", "pixart",
              "dpmsolver++", 4.5, captions=_EMOJI, text_tokens=24),
        Model("pocket-uvit", "pocket U-ViT", 32, str(LONG_SKIPS), "pocket", "fashion-mnist-cnn", "uvit",
              "dpm-solver", 1.4, companion=str(CLASS_CONDITIONAL)),
        _dit_xl_2(256, "VIRTUAL_imagenet256_labeled.npz"),
        _dit_xl_2(512, "VIRTUAL_imagenet512.npz"),
        Model("uvit-h-2-256", "U-ViT-H/2", 256, "", "paper", "inception-2015-12-05", "uvit", "dpm-solver", 1.4,
              companion="facebook/DiT-XL-2-256", original="imagenet256_uvit_huge.pth",
              hub_config=tuple(_UVIT_H_2.items()), vae_config=tuple(_SD_VAE.items()),
              reference="VIRTUAL_imagenet256_labeled.npz"),
        _pixart("alpha", 256, "PixArt-XL-2-256x256"),
        _pixart("alpha", 512, "PixArt-XL-2-512x512"),
        _pixart("alpha", 1024, "PixArt-XL-2-1024-MS"),
        _pixart("sigma", 512, "PixArt-Sigma-XL-2-512-MS"),
        _pixart("sigma", 1024, "PixArt-Sigma-XL-2-1024-MS"),
        _pixart("sigma", 2048, "PixArt-Sigma-XL-2-2K-MS"),
    )
}  # fmt: skip


def get_model(name: str) -> Model:
    """The model of that name. Raises UserError for an unknown one."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]
