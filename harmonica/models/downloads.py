"""External files and weights: their source, where they are stored, and how they are fetched or added by hand.

All are stored in one folder: `weights/` in the checkout, or $HARMONICA_WEIGHTS. A hub model is the folder
`weights/<model>/` with diffusers' parts in it; its transformer may also be given as an original checkpoint,
`weights/<model>.pt` (or .pth, .bin, .safetensors).
"""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from harmonica.models import Model
from harmonica.models.own import repository_folder
from harmonica.utils import UserError, file_hash, unknown, weights_folder
from harmonica.utils.errors import of_the_disk

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")  # of a pipeline
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"
_LTC = "https://raw.githubusercontent.com/horseee/learning-to-cache/23d80454a9ff42f8eec55a68db83ec88cf859c62/DiT/ckpt"
_LTC_UVIT = (
    "https://raw.githubusercontent.com/horseee/learning-to-cache/be8c5d2c2f9d7baa82c9efef90a97c0ab5e208d4/U-ViT/ckpt"
)


@dataclass(frozen=True)
class File:
    """An external file. `sha256` is the full hash or a known prefix of it; "" if none is known."""

    name: str
    url: str
    what: str
    sha256: str = ""


FILES = {
    f.name: f
    for f in (
        File("weights-inception-2015-12-05-6726825d.pth",
             "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
             "weights-inception-2015-12-05-6726825d.pth",
             "the Inception network of FID, IS, precision and recall", "6726825d"),
        File("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
             "torchvision's AlexNet, for LPIPS", "7be5be79"),
        File("VIRTUAL_imagenet256_labeled.npz", f"{_ADM}/256/VIRTUAL_imagenet256_labeled.npz",
             "ADM's reference statistics of ImageNet 256"),
        File("VIRTUAL_imagenet512.npz", f"{_ADM}/512/VIRTUAL_imagenet512.npz",
             "ADM's reference statistics of ImageNet 512"),
        File("DDIM20_router.pt", f"{_LTC}/DDIM20_router.pt", "Learning-to-Cache's released router for 20 steps",
             "c3134cfe7a69e31f188ac3d8ace7f6b586db92daa30c99f17e46d3f24e7408c7"),
        File("DDIM50_router.pt", f"{_LTC}/DDIM50_router.pt", "Learning-to-Cache's released router for 50 steps",
             "fd83c172f77ad71f8695d5972497d1a4d113119e0e0415861812ca8eea9f60b2"),
        File("dpm20_router.pth", f"{_LTC_UVIT}/dpm20_router.pth",
             "Learning-to-Cache's released router for U-ViT, 20 evaluations",
             "836ee44bd212985cc7e03e619691cd5530677dcbd0121b2558674fdca9bf59a1"),
        File("dpm50_router.pth", f"{_LTC_UVIT}/dpm50_router.pth",
             "Learning-to-Cache's released router for U-ViT, 50 evaluations",
             "6778122d7b4ac1816d98d7c0de18727f42956bb6de0233a30215bfebf91c8578"),
    )
}  # fmt: skip


def require(name: str) -> Path:
    """The path of a fetched file, compared with its checksum if one is known. If it is missing or another file, raises
    UserError that says where to get and put it."""
    path = weights_folder() / name
    if not path.is_file():
        raise _missing(FILES[name], f"run `harmonica fetch {name}`")
    _verify(FILES[name], path, "delete it and fetch it again")
    return path


def _missing(f: File, way: str) -> UserError:
    return UserError(f"{f.name} ({f.what}) is missing: {way}, or put {f.url} at {weights_folder() / f.name} by hand")


def fetch(name: str) -> Path:
    """Download a file unless it exists; resumes a partial download. Raises UserError if it cannot, or if the hash
    differs (the download is deleted then)."""
    if name not in FILES:
        raise unknown("file", name, FILES)
    f, path = FILES[name], weights_folder() / name
    if path.is_file():
        _verify(f, path, "delete it and fetch it again")
        return path
    part = path.with_name(f"{name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(f.url, part)
    except (urllib.error.URLError, OSError) as e:
        if of_the_disk(e):
            raise
        reason = getattr(e, "reason", None) or e
        raise _missing(f, f"it could not be downloaded here ({reason}); run this again with network") from None
    try:
        _verify(f, part, "it was deleted; fetch it again")
    except UserError:
        part.unlink()
        raise
    part.rename(path)
    return path


def _verify(f: File, path: Path, advice: str) -> None:
    if not f.sha256:  # no known hash, and it may be large
        return
    found = file_hash(path)
    if not found.startswith(f.sha256):
        raise UserError(f"{path} is not {f.what}: its sha256 begins with {found[:12]}, not {f.sha256[:12]}; {advice}")


def _download(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # nothing is left to fetch
            return
        raise
    with reply:
        goes_on = reply.status == 206
        size = int(reply.headers.get("Content-Length", 0)) + (have if goes_on else 0)
        with (
            open(part, "ab" if goes_on else "wb") as out,
            tqdm(total=size, initial=have if goes_on else 0, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := reply.read(1 << 20):
                out.write(block)
                bar.update(len(block))
        if size and part.stat().st_size != size:
            raise OSError("the connection ended early")


def fetch_model(model: Model) -> list[Path]:
    """The folders of a hub model's components, downloaded or converted if missing. A shipped model's exist
    already.

    Raises UserError if a part is missing and unavailable.
    """
    if model.hub:
        original = _original(model)
        if original and "transformer" in _missing_parts(model):
            from harmonica.models.convert import to_diffusers_folder, to_uvit_folder

            if model.kind == "uvit":
                to_uvit_folder(original, model.place("transformer"), model.config)
            else:
                to_diffusers_folder(original, model.place("transformer"), model.config["num_attention_heads"])
        for part in _missing_parts(model):
            if not model.repository(part):
                raise _missing_model(model, [part], "are in no repository")
            _download_part(model, part)
        missing = _missing_parts(model)
        if missing:
            raise _missing_model(model, missing, "are not in the repository")
    return [model.folder(part) for part in model.parts]


def fetch_repository(name: str) -> Path:
    """The folder of a diffusers pipeline of the hub, OWNER/NAME, downloaded if it is missing: a model like any folder
    of one's own. An interrupted download is resumed. Raises UserError if it cannot be downloaded, or came damaged."""
    folder = repository_folder(name)
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    try:
        _download_parts(name, None, part, PARTS)
    except UserError:
        raise
    except Exception as e:  # the hub's client raises many kinds, of several packages
        if of_the_disk(e):
            raise
        raise UserError(
            f"{name} could not be downloaded here ({type(e).__name__}): put the folders {', '.join(PARTS)} of that "
            f"repository into {folder}, or pass a folder that has them"
        ) from None
    shutil.rmtree(part / ".cache", ignore_errors=True)
    if not (part / "transformer").is_dir():
        raise UserError(f"{name} is not a diffusers pipeline with a transformer: it has no folder transformer/")
    part.rename(folder)
    return folder


def _missing_parts(model: Model) -> list[str]:
    return [part for part in model.parts if not _whole(model.place(part))]


def _download_part(model: Model, part: str) -> None:
    try:
        _download_parts(model.repository(part), model.revision, model.place(part).parent, [part])
    except UserError:
        raise
    except Exception as e:  # the hub's client raises many kinds, of several packages
        if of_the_disk(e):
            raise
        why = f"could not be downloaded here ({type(e).__name__})"
        raise _missing_model(model, _missing_parts(model), why) from None


def _download_parts(repository: str, revision: str | None, folder: Path, parts: Collection[str]) -> None:
    """Download folders of a repository of the hub. Raises UserError if a large file came with another sha256 than the
    hub says, since its client compares sizes only; the file is deleted then."""
    from huggingface_hub import HfApi, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    patterns = [f"{part}/*" for part in parts]
    snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=patterns, endpoint=endpoint)
    for file in HfApi(endpoint).list_repo_tree(repository, recursive=True, revision=revision):
        path, lfs = folder / file.path, getattr(file, "lfs", None)
        if lfs and file.path.split("/")[0] in parts and path.is_file() and file_hash(path) != lfs.sha256:
            path.unlink()
            raise UserError(
                f"{path} was damaged on the way: its sha256 is not the hub's; it was deleted, fetch it again"
            )


def _whole(folder: Path) -> bool:
    """Whether a component is complete: a tokenizer, or configuration and weights."""
    if folder.name == "tokenizer":
        return (folder / "tokenizer_config.json").is_file()
    from harmonica.models.state_dicts import is_complete

    return is_complete(folder)


def _original(model: Model) -> Path | None:
    """The original checkpoint of a model in the weights folder, in any form that is read."""
    from harmonica.models.state_dicts import SUFFIXES

    named = weights_folder() / model.original
    found = [named, *(named.with_suffix(s) for s in SUFFIXES)] if model.original else []
    return next((p for p in found if p.is_file()), None)


def _missing_model(model: Model, missing: list[str], why: str) -> UserError:
    parts = " and ".join(f"{p}/" for p in missing)
    ways = [f"the hub's {model.repository(p)}/{p} into {model.place(p)}" for p in missing if model.repository(p)]
    if model.original and "transformer" in missing:
        ways.append(f"or the original checkpoint as {weights_folder() / model.original}")
    return UserError(f"{parts} of {model.title} {model.resolution} {why}: put {', '.join(ways).removeprefix('or ')}")
