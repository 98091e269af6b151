"""Loading weights: backbones, autoencoders, text encoders, on the GPU if there is one."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harmonica.backbones.base import Backbone
from harmonica.backbones.dit import DiT
from harmonica.backbones.layers import in_precision
from harmonica.backbones.pixart import PixArt
from harmonica.backbones.uvit import UViT
from harmonica.models.convert import original_to_diffusers
from harmonica.models.embeddings import embedded
from harmonica.models.shipped import verified, verified_folder
from harmonica.models.spec import Model, check_computed
from harmonica.models.state_dicts import NAMES, brief, check_finite, is_complete, read_state, weight_files
from harmonica.samplers.schedules import get_schedule, read_scheduler
from harmonica.utils import UserError, read_json
from harmonica.utils.devices import default_device, require_gpu
from harmonica.utils.precision import dtype_of


def new_backbone(model: Model, config: dict | None = None) -> Backbone:
    """The backbone of a model, of its own configuration or another, untrained."""
    config = config or model.config
    backbone: Backbone
    if model.kind == "pixart":
        backbone = PixArt(config, model.title, model.text_tokens)
    else:
        is_dit = model.kind == "dit"
        backbone = DiT(config, model.title, bool(model.original)) if is_dit else UViT(config, model.title)
    backbone.schedule = model.schedule
    return backbone


def load_backbone(model: Model, precision: str = "float32") -> Backbone:
    """The backbone with its weights in a precision, ready for inference.

    Raises UserError if weights or embedded captions are missing or damaged.
    """
    path = verified(_require(model.folder("transformer") / "config.json", model.title))
    config = read_json(path, f"the configuration of {model.title}")
    if model.hub:
        require_gpu(model.title)
    check_schedule(model.folder("transformer").parent, model)
    if model.kind != "uvit":
        check_computed(config, path)
    try:
        with torch.device("meta"), without_initial_values():  # the weights are taken over
            backbone = new_backbone(model, config)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as e:
        raise UserError(f"{path} is not the configuration of {model.title} ({type(e).__name__}: {e})") from None
    original = Path(model.original)
    checkpoint = original if original.is_absolute() else None  # of a model of one's own
    backbone = load_weights(backbone, model.folder("transformer"), model.title, default_device(), checkpoint)
    backbone = backbone.to(default_device())
    if model.captions:
        backbone.conditioning = embedded(model)
    return in_precision(backbone, dtype_of(precision))


@contextmanager
def without_initial_values() -> Iterator[None]:
    """Within this context, layers are made without values: on the meta device these take torch's compiler, whose import
    is most of a short process."""
    names = [n for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")]
    before = {n: getattr(torch.nn.init, n) for n in names}
    try:
        for n in names:
            setattr(torch.nn.init, n, lambda tensor, *args, **more: tensor)
        yield
    finally:
        for n, function in before.items():
            setattr(torch.nn.init, n, function)


def check_schedule(pipeline: Path, model: Model) -> None:
    """Raise UserError if a pipeline's folder says that the model was trained with another noise schedule."""
    path = pipeline / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return
    found, own = read_scheduler(path), get_schedule(model.schedule).diffusers
    wrong = {k: found[k] for k in own if k in found and found[k] != own[k]}
    if wrong:
        raise UserError(
            f"{path} has {', '.join(f'{k} {v}' for k, v in wrong.items())}: {model.name} is registered with the noise "
            f"schedule {model.schedule}, and samplers would follow the wrong one"
        )


def _require(path: Path, title: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; {title} needs it")
    return path


def load_weights(
    backbone: Backbone, folder: Path, title: str, device: torch.device | str = "cpu", checkpoint: Path | None = None
) -> Backbone:
    """Load a backbone's weights from a `transformer/` folder, or from an original checkpoint, to a device. Raises
    UserError if they are missing, damaged or do not fit."""
    files = [checkpoint] if checkpoint else weight_files(folder)
    if not files:
        raise UserError(f"{folder / NAMES[0]} is missing; {title} needs it")
    for file in files:
        verified(file)
    weights = files[0] if len(files) == 1 else folder
    try:
        state = read_state(checkpoint or folder, device)
        if checkpoint and isinstance(backbone, DiT):
            state = original_to_diffusers(state)
        _check_blocks(state, backbone, weights)
        taken = Taken(state)
        loaded = backbone.load_weights(taken)
        left = [k for k in state.keys() - taken.names if k.startswith("transformer_blocks.")]
        if left:
            raise UserError(f"{weights} has {min(left)}, which no backbone here computes with")
    except (KeyError, RuntimeError) as e:
        raise UserError(f"{weights} does not contain the weights that its config.json describes ({brief(e)})") from None
    _check_finite(loaded, weights)
    return loaded


class Taken(dict):
    """A state dict that knows which of its parameters were asked for."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__(state)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def _check_blocks(state: dict[str, torch.Tensor], backbone: Backbone, weights: Path) -> None:
    """Raise UserError for weights of more blocks than the configuration says: the model would lack its last ones."""
    found = {int(m[1]) for key in state if (m := re.match(r"transformer_blocks\.(\d+)\.", key))}
    depth = len(backbone.layout.blocks)
    if found and len(found) > depth:
        raise UserError(f"{weights} has {len(found)} blocks, and its config.json says {depth}")


def _check_finite(module: torch.nn.Module, weights: Path) -> None:
    check_finite(module.named_parameters(), weights)


def load_autoencoder(model: Model):
    """The AutoencoderKL in float32, ready for inference. Raises UserError if it is missing or damaged."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = model.folder("vae")
    if model.hub:
        require_gpu(f"the autoencoder of {model.title}")
    return _pretrained(AutoencoderKL, verified_folder(folder)).eval().requires_grad_(False).to(default_device())


def _pretrained(cls: Any, folder: Path, **more: Any) -> Any:
    """`cls.from_pretrained(folder)`. Raises UserError if the folder is not complete, or damaged."""
    read_json(folder / "config.json", f"the configuration of {cls.__name__}")
    if not is_complete(folder):
        raise UserError(f"{folder} has no complete weights, which {cls.__name__} needs")
    try:
        loaded, about = cls.from_pretrained(folder, output_loading_info=True, **more)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as e:
        raise UserError(f"{folder} is damaged, or not {cls.__name__} ({type(e).__name__}: {brief(e)})") from None
    absent = sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]]))
    if absent:  # they would be random
        raise UserError(f"{folder} lacks {len(absent)} of the weights of {cls.__name__}, or has them in another shape: "
                        f"{absent[0]}")  # fmt: skip
    _check_finite(loaded, folder)
    return loaded


def load_decoder(model: Model, memory: float | None = None) -> Callable:
    """A function from latents (n, 4, h, w), unit variance, to images (n, C, H, W) in [-1, 1]; as many images are
    decoded at a time as fit into `memory` bytes beside the autoencoder, and at least one."""
    if memory is None:
        return decoder(load_autoencoder(model))
    return decoder(load_autoencoder(model), int((memory - model.autoencoder_bytes) // model.decoding_bytes))


def decoder(vae, at_once: int | None = None) -> Callable:
    """Decoding by an AutoencoderKL, see `load_decoder`."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        parts = latents.split(max(1, at_once or len(latents)))
        return torch.cat([vae.decode(x / vae.config.scaling_factor, return_dict=False)[0] for x in parts])

    return decode


def load_text_encoder(model: Model) -> Callable:
    """The encoding of captions by the model's T5, see `text_encoder`; in half precision for a hub model."""
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(verified_folder(model.folder("tokenizer")))
    if model.hub:
        require_gpu(f"the text encoder of {model.title}")
    dtype = torch.float16 if model.hub else torch.float32
    folder = verified_folder(model.folder("text_encoder"))
    encoder = _pretrained(T5EncoderModel, folder, dtype=dtype).eval().to(default_device())
    return text_encoder(tokenizer, encoder, model.text_tokens)


def text_encoder(tokenizer, encoder, length: int) -> Callable:
    """A function from captions to embeddings (n, L, C), in the encoder's dtype and on its device, and masks (n, L) of
    L = `length` tokens.

    Captions are lower-cased and stripped, as diffusers' pipelines do with `clean_caption=False`.
    """

    @torch.inference_mode()
    def encode(captions: list[str]):
        tokens = tokenizer(
            [c.lower().strip() for c in captions], padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        ).to(encoder.device)  # fmt: skip
        return encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask

    return encode
