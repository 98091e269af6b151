"""Models of one's own: a local folder in the form of diffusers, and in it maybe `harmonica.yaml`, which says what the
weights do not. No torch.

Such a model is named after what it is: the kind of its backbone, and a digest of its weights and captions. Two folders
with equal content are one model, a folder with other weights is another. A plan holds this name only, so the folder in
which it was last found is noted in the weights folder, for later processes.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from harmonica.models.captions import CaptionList
from harmonica.models.spec import CHECKPOINTS, Model, check_computed, contents
from harmonica.samplers.schedules import SCHEDULES, get_schedule, read_scheduler
from harmonica.utils import UserError, digest, parse, read_json, setting, weights_folder
from harmonica.utils.records import Record

DESCRIPTION = "harmonica.yaml"
SAMPLER = {"dit": "ddim", "pixart": "dpmsolver++", "uvit": "dpm-solver"}
SCHEDULE = {"dit": "linear", "pixart": "linear", "uvit": "scaled_linear"}
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of the hub: OWNER/NAME
NAME = re.compile(r"(dit|pixart|uvit)-[0-9a-f]{8}")


@dataclass(frozen=True)
class Description:
    """What a folder's `harmonica.yaml` may say. Paths are relative to the folder."""

    title: str = setting("", "as tables print it; default: the folder's name")
    source: str = setting("", "the folder with the parts of the pipeline, if it is another one")
    companion: str = setting("", "the folder with autoencoder and text encoder, if it is not that of the transformer")
    extractor: str = setting("inception-2015-12-05", "the feature network of its metrics")
    reference: str = setting("", "pictures that its images are compared with: a folder, or one of ADM's files; "
                             "default: the extractor's own")  # fmt: skip
    sampler: str = setting("", "its usual sampler; default: ddim, of PixArt dpmsolver++, of U-ViT dpm-solver")
    cfg: float = setting(1.5, "its usual guidance scale", at_least=1)
    schedule: str = setting("", "noise schedule of its training, linear or scaled_linear; default: by scheduler/, else "
                            "linear, of U-ViT scaled_linear")  # fmt: skip
    original: bool = setting(False, "a DiT in the form of diffusers with weights of the original code")
    captions: str = setting("", "of PixArt: a list of captions, one per line, or for .csv the column `caption`")
    table_captions: int = setting(
        0, "leading captions that are for tables, the others for training; default: half", at_least=0
    )
    text_tokens: int = setting(120, "of PixArt: captions are padded or cut to this length; of Σ 300", at_least=1)
    recipe: Literal["pocket", "paper"] = setting("pocket", "the scale whose training recipes its routers take")


@dataclass(frozen=True)
class Found(Record):
    """Where a model was found, and the size and time of the files that its name was computed from."""

    kind: ClassVar[str] = "a note of where a model is"
    properties: ClassVar[dict[str, Any]] = {
        "folder": {"type": "string"},
        "files": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}},
    }
    folder: str
    files: dict[str, list[int]]


_known: dict[str, Model] = {}  # by name, of this process
_named: dict[str, tuple[str, dict[str, list[int]]]] = {}  # by folder: a fingerprint, and the files that it is of


def find(name: str) -> Model | None:
    """The model in a folder, or of the name of one that was found before; None for what is neither.

    Raises UserError for a folder that is not a model, or one that is no longer the model of that name.
    """
    if name in _known:
        return _known[name]
    if _is_folder(name):
        return of_folder(Path(name))
    note = weights_folder() / "models" / f"{name}.json"
    if NAME.fullmatch(name) and note.is_file():
        return _noted(name, note)
    if REPOSITORY.fullmatch(name):
        folder = repository_folder(name)
        if folder.is_dir():
            return of_folder(folder)
        raise UserError(f"{name} is not a folder; if it is a repository of the hub, run `harmonica fetch {name}`")
    if "/" in name:
        raise UserError(f"{name} is not a folder: a model is a known name, or a folder with transformer/ and vae/")
    return None


def repository_folder(name: str) -> Path:
    """Where `harmonica fetch OWNER/NAME` puts a pipeline of the hub."""
    return weights_folder() / "hub" / name.replace("/", "--")


def repository_of(model: Model) -> str:
    """The hub's name of a model that `harmonica fetch` put where it is; "" for another."""
    folder = Path(model.source)
    return folder.name.replace("--", "/", 1) if folder.parent == weights_folder().resolve() / "hub" else ""


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and Path(name).is_dir()
    except (OSError, ValueError):  # too long, or of characters that no path has
        return False


def _noted(name: str, note: Path) -> Model:
    """The model of a note. Its name is computed anew only if a file has changed since."""
    found = Found.load(note)
    folder = Path(found.folder)
    again = "pass the folder where it is now with --model, or make the plan again"
    if not folder.is_dir():
        raise UserError(f"the model {name} was in {folder}, which is no longer there: {again}")
    model = _described(folder)
    if _stamp(model, folder) == found.files:
        _known[name] = replace(model, name=name)
        return _known[name]
    own = of_folder(folder)
    if own.name != name:
        raise UserError(f"{folder} held the model {name}, and now holds another one, {own.name}: {again}")
    return own


def of_folder(folder: Path) -> Model:
    """The model in a folder, which is noted for other processes. Raises UserError, in one sentence, if it has none."""
    folder = folder.resolve()
    model = _described(folder)
    files = _stamp(model, folder)
    before, of_files = _named.get(str(folder), ("", {}))
    fingerprint = before if files == of_files else model.fingerprint
    model = replace(model, name=f"{model.kind}-{digest([fingerprint, model.kind, model.schedule])[:8]}")
    vars(model)["fingerprint"] = fingerprint  # it does not depend on the name, and may take seconds
    note, found = weights_folder() / "models" / f"{model.name}.json", Found(str(folder), files)
    if not note.is_file() or _unlike(note, found):
        found.save(note)
    _named[str(folder)] = fingerprint, files
    _known[model.name] = model
    return model


def _unlike(note: Path, found: Found) -> bool:
    try:
        return Found.load(note) != found
    except UserError:  # damaged
        return True


def _stamp(model: Model, folder: Path) -> dict[str, list[int]]:
    """Size and time of every file that a model's name, or its description, comes from."""
    files = [p for part in model.parts for p in contents(model.folder(part))]
    files += [Path(model.original)] if model.original.startswith("/") else []
    files += [model.captions.path] if model.captions else []
    files += [p for p in (folder / DESCRIPTION,) if p.is_file()]
    return {str(p): [(about := p.stat()).st_size, about.st_mtime_ns] for p in files}


def _described(folder: Path) -> Model:
    """The model in a folder, without its name."""
    about = _description(folder)
    source = folder / about.source
    config, kind = _kind(source)
    companion = (folder / about.companion) if about.companion else source
    images = folder / "train_images.npz"
    checkpoint = _checkpoint(source)
    reference, data = _reference(folder, about)
    model = Model(
        name="", title=about.title or folder.name, resolution=_resolution(companion, config, kind), source=str(source),
        scale=about.recipe, extractor=_SAME.get(about.extractor, about.extractor), kind=kind,
        sampler=about.sampler or SAMPLER[kind], cfg=about.cfg, schedule=_schedule(source, kind, about.schedule),
        captions=_captions(folder, about) if kind == "pixart" else None,
        text_tokens=about.text_tokens if kind == "pixart" else 0,
        companion=str(companion) if about.companion else "",
        original=checkpoint or ("original" if about.original else ""), reference=reference, data=data,
        own=True, images=str(images) if images.is_file() else "",
    )  # fmt: skip
    for part in model.parts:
        if not model.folder(part).is_dir():
            raise UserError(f"{folder} is not a model: {model.folder(part)} is missing")
    try:
        assert model.layout
    except (KeyError, TypeError, ValueError, ArithmeticError) as e:
        path = source / "transformer" / "config.json"
        raise UserError(f"{path} is not the configuration of a {kind} ({type(e).__name__}: {e})") from None
    return model


_SAME = {"inception-v3-compat": "inception-2015-12-05"}  # torch-fidelity's name of the same network


def _description(folder: Path) -> Description:
    import yaml

    path = folder / DESCRIPTION
    if not path.is_file():
        return Description()
    try:
        found = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise UserError(f"{path} is not YAML ({type(e).__name__}: {' '.join(str(e).split())})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a description of a model: it has no keys")
    return parse(Description, str(path), {str(k): v for k, v in found.items()})


def _kind(source: Path) -> tuple[dict[str, Any], str]:
    """The configuration of the transformer, and what kind of backbone it is."""
    path = source / "transformer" / "config.json"
    if not path.is_file():
        raise UserError(f"{source} is not a model: it has no transformer/config.json")
    config = read_json(path, "the configuration of a transformer")
    if not isinstance(config, dict):
        raise UserError(f"{path} is not the configuration of a transformer")
    if {"img_size", "embed_dim", "depth"} <= config.keys():
        return config, "uvit"
    check_computed(config, path)
    name = config.get("_class_name", "")
    if name == "PixArtTransformer2DModel" or config.get("caption_channels"):
        return config, "pixart"
    if name in ("DiTTransformer2DModel", "Transformer2DModel", "") and config.get("num_embeds_ada_norm"):
        return config, "dit"
    raise UserError(f"{path} is of {name or 'an unknown class'}: a model is a DiT, a PixArt or a U-ViT")


def _checkpoint(source: Path) -> str:
    """The path of an original checkpoint, of a transformer without weights in the form of diffusers."""
    folder = source / "transformer"
    files = [p for place in (folder, source) for p in sorted(place.iterdir()) if not p.name.startswith(".")]
    if any(p.suffix in (".safetensors", ".bin") for p in files if p.parent == folder):
        return ""
    found = [p for p in files if p.suffix in CHECKPOINTS]
    if len(found) > 1:
        raise UserError(f"{source} has several checkpoints, {', '.join(p.name for p in found)}: leave one")
    if not found:
        raise UserError(f"{folder} has no weights, neither safetensors nor an original checkpoint (.pt)")
    return str(found[0])


def _resolution(companion: Path, config: dict[str, Any], kind: str) -> int:
    """Pixels of a side: the autoencoder doubles latents once per level but one."""
    path = companion / "vae" / "config.json"
    if not path.is_file():
        raise UserError(f"{companion} is not a model: it has no vae/config.json")
    found, side = (
        read_json(path, "the configuration of an autoencoder"),
        config.get("sample_size", config.get("img_size")),
    )
    levels = found.get("block_out_channels") if isinstance(found, dict) else None
    if not isinstance(levels, list) or not levels:
        raise UserError(f"{path} is not the configuration of an AutoencoderKL: it has no block_out_channels")
    if not isinstance(side, int) or side < 1:
        raise UserError(f"the configuration of the {kind} in {companion} has no side of its latents (sample_size)")
    channels, own = found.get("latent_channels", 4), config.get("in_channels", config.get("in_chans", 4))
    if channels != own:
        raise UserError(f"{path} has {channels} latent channels, and the {kind} of {companion} takes {own}")
    return side * 2 ** (len(levels) - 1)


def _schedule(source: Path, kind: str, given: str) -> str:
    path = source / "scheduler" / "scheduler_config.json"
    found = read_scheduler(path) if path.is_file() else {}
    if given:
        get_schedule(given)
        return given
    if not found:
        return SCHEDULE[kind]
    own = [name for name, s in SCHEDULES.items() if all(found.get(k) == v for k, v in s.diffusers.items())]
    if not own:
        raise UserError(f"{path} has a noise schedule that is not known here: {', '.join(SCHEDULES)}")
    return own[0]


def _captions(folder: Path, about: Description) -> CaptionList:
    if not about.captions:
        raise UserError(f"{folder} is a text-to-image model: name its captions in {DESCRIPTION} (captions: …)")
    path = (folder / about.captions).resolve()
    name = re.sub(r"[^A-Za-z0-9._-]", "", path.stem) or "captions"
    images = about.table_captions or len(CaptionList(name, str(path), 0).read()) // 2
    found = CaptionList(name, str(path), images)
    found.read()
    return found


def _reference(folder: Path, about: Description) -> tuple[str, str]:
    """The reference, and the name of what is in it, which changes with its pictures."""
    if not about.reference:
        return "", ""
    path = (folder / about.reference).resolve()
    if not path.exists():
        raise UserError(f"{path}, the reference of {folder}, is missing: a folder of pictures, or one of ADM's files")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    listed = [[str(p.relative_to(path)), (s := p.stat()).st_size, s.st_mtime_ns] for p in files]
    return str(path), f"{path.name}-{digest(listed)[:8]}"
