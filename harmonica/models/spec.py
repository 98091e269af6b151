"""A model's specification: where its weights are, and its official protocol. No torch: a plan is made, checked and
costed without weights."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harmonica.models.captions import SHARD, TRAINING_CAPTIONS, CaptionList
from harmonica.plan.branches import BranchLayout, dit_layout, pixart_layout, uvit_layout
from harmonica.utils import UserError, content_hash, digest, file_hash, read_json, weights_folder

# of Stable Diffusion's autoencoder in float32, counted on fake tensors (tests/gpu); decoding is per pixel
AUTOENCODER_BYTES, DECODING_BYTES = 335_000_000, 3400
CHECKPOINTS = (".pt", ".pth", ".ckpt")  # of a user's model, as training code writes them


# settings of diffusers' DiT and PixArt transformers that change what they compute, and the only values of them here
COMPUTED = {
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "attention_bias": True,
    "in_channels": 4,
}


def check_computed(config: dict[str, Any], path: Path) -> None:
    """Raise UserError for the configuration of a DiT or PixArt that the backbones would compute as another one."""
    wrong = {k: config[k] for k, own in COMPUTED.items() if config.get(k, own) != own}
    if wrong:
        listed = ", ".join(f"{k} {v}" for k, v in wrong.items())
        raise UserError(f"{path} has {listed}: the backbones here compute {COMPUTED}")


@dataclass(frozen=True)
class Model:
    """One model: where its weights are, and its official protocol."""

    name: str
    title: str
    resolution: int  # pixels
    source: str  # a diffusers folder, or a hub repository
    scale: str  # "pocket" or "paper"
    extractor: str  # the feature network of its metrics
    kind: str = "dit"  # of backbone: "dit", "pixart" or "uvit"
    sampler: str = "ddim"  # usual sampler and guidance scale
    cfg: float = 1.5
    schedule: str = "linear"  # the noise schedule of training, by its name in samplers/schedules.py
    captions: CaptionList | None = None
    text_tokens: int = 0  # captions are padded or cut to this length
    companion: str = ""  # folder or repository of autoencoder and text encoder, if it is not `source`
    vae_config: tuple = ()  # of a hub model
    original: str = ""  # file name of an original checkpoint of the transformer; see also backbones/dit.py
    hub_config: tuple[tuple[str, float], ...] = ()  # configuration of a hub model, known without a download
    revision: str = "main"  # of the hub repository
    reference: str = ""  # file of reference statistics, if the extractor has none of its own
    data: str = ""  # the data set that its images are compared with, if no reference names it
    own: bool = False  # a user's, or another package's: no published numbers are beside it
    images: str = ""  # of one's own: file of training images, if it has any

    @property
    def hub(self) -> bool:
        """Whether the weights have to be fetched."""
        return bool(self.hub_config)

    @property
    def config(self) -> dict:
        """The backbone's configuration. Raises UserError if a local folder lacks it."""
        if self.hub:
            return dict(self.hub_config)
        path = Path(self.source) / "transformer" / "config.json"
        if not path.is_file():
            raise UserError(f"{path} is missing: make the pocket models with `harmonica pocket train`")
        return read_json(path, "the configuration of a transformer")

    @property
    def classes(self) -> int:
        """The classes that the model was trained on, without the null class; 0 for a text-to-image model."""
        if self.captions:
            return 0
        return self.config["num_classes"] - 1 if self.kind == "uvit" else self.config["num_embeds_ada_norm"]

    @cached_property
    def layout(self) -> BranchLayout:
        """The branches and their MACs."""
        if self.kind == "pixart":
            return pixart_layout(self.title, self.config, self.text_tokens)
        return {"dit": dit_layout, "uvit": uvit_layout}[self.kind](self.title, self.config)

    @property
    def data_set(self) -> str:
        """The data set that its images are compared with, as references name it."""
        return self.data or self.reference

    @property
    def image_bytes(self) -> int:
        """Bytes of an image, uint8."""
        return self.resolution**2 * (1 if self.extractor == "fashion-mnist-cnn" else 3)

    @property
    def autoencoder_bytes(self) -> int:
        """Bytes of the autoencoder's weights, float32; 0 for a small one."""
        return AUTOENCODER_BYTES if self.hub or (self.own and self.resolution >= 128) else 0

    @property
    def decoding_bytes(self) -> int:
        """Predicted peak bytes of decoding one image, without weights."""
        return DECODING_BYTES * self.resolution**2

    @property
    def depth(self) -> int:
        """Blocks; U-ViT's own number excludes the middle one."""
        return self.config["depth" if self.kind == "uvit" else "num_layers"]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with weights and captions. A hub model is hashed by name."""
        weights = self.source
        if not self.hub:
            weights = content_hash(*(p for part in ("transformer", "vae") for p in contents(self.folder(part))))
            if Path(self.original).is_absolute():
                weights = digest([weights, file_hash(self.original)])
        about = [weights, bool(self.original)]
        if self.captions:
            about.append(self.captions.name if self.hub else embeddings_folder(self).name)
        return digest(about)

    @cached_property
    def training_images(self) -> Path | None:
        """The images shipped with the model, or the folder of ImageNet's class folders; None for a text-to-image hub
        model, which has none."""
        if self.images:
            return Path(self.images)
        if self.hub:
            return None if self.captions else weights_folder() / "imagenet" / "train"
        return self.folder("vae").parent / "train_images.npz"

    @cached_property
    def text_encoder_fingerprint(self) -> str:
        """Changes with the text encoder, as `fingerprint` does with the rest."""
        if self.hub:
            return self.companion or self.source
        return content_hash(*(p for part in ("text_encoder", "tokenizer") for p in contents(self.folder(part))))

    @property
    def parts(self) -> tuple[str, ...]:
        """The components of the pipeline, by diffusers' names."""
        return ("transformer", "vae") + (("text_encoder", "tokenizer") if self.captions else ())

    def place(self, part: str) -> Path:
        """The folder of a component of a hub model, fetched or not."""
        return weights_folder() / self.folder_name(part) / part

    def folder(self, part: str) -> Path:
        """The local folder of a component. Raises UserError if a hub model's has not been fetched."""
        if not self.hub:
            return Path(self.repository(part)) / part
        folder = self.place(part)
        if not folder.is_dir():
            raise UserError(
                f"{folder} is missing: run `harmonica fetch {self.name}`, which says what to do without network"
            )
        return folder

    def folder_name(self, part: str) -> str:
        """The folder of a hub model's component; shared components are in one folder."""
        repository = self.repository(part)
        return self.name if repository == self.source else repository.split("/")[1].lower()

    def repository(self, part: str) -> str:
        """The hub repository, or local folder, of a component."""
        return self.companion if self.companion and part != "transformer" else self.source


def contents(folder: Path) -> list[Path]:
    """The files of a component's folder, without hidden ones, notes and original checkpoints."""
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith("."))
    return [p for p in files if p.suffix not in (".md", *CHECKPOINTS)]


def embeddings_folder(model: Model) -> Path:
    """The folder of the embeddings of this model's captions, named after the list, the encoder, the length and what is
    stored."""
    assert model.captions
    form = 3  # of a shard
    about = [model.captions.hash, model.text_encoder_fingerprint, model.text_tokens]
    key = digest([*about, form, SHARD, TRAINING_CAPTIONS])
    return weights_folder() / "embeddings" / f"{model.captions.name}-{key}"
