"""The one reader of weights of others: safetensors, torch's pickles, and folders of either, in one file or several.

What training scripts put around the weights is taken off: an EMA is taken in place of the weights it averages, and
prefixes of wrappers (DistributedDataParallel, torch.compile, Lightning) are removed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonica.utils import UserError, read_json, refuse_pointer

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
NAMES = tuple(f"{stem}{suffix}" for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
              for suffix in (".safetensors", ".bin"))  # fmt: skip
INSIDE = ("ema", "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module")  # in this order
AVERAGES, WRAPPERS = ("ema.", "ema_model."), ("module.", "model.", "_orig_mod.")


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a component's folder; [] if there are none. Of several forms the first complete
    one is taken. Raises UserError for an index that is damaged or names a file outside the folder."""
    forms = [[folder / name] for name in NAMES if (folder / name).is_file()]
    indices = [p for p in folder.glob("*.index.json") if not p.name.startswith(".")]  # such as macOS' own
    forms += [_indexed(index) for index in sorted(indices, reverse=True)]  # safetensors first
    return next((files for files in forms if all(p.is_file() for p in files)), forms[0] if forms else [])


def _indexed(index: Path) -> list[Path]:
    """The files that an index of weights names."""
    found = read_json(index, "an index of weights in several files")
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names or not all(_is_name(n) for n in names.values()):
        raise UserError(f"{index} is not an index of weights: it has no weight_map from parameters to files")
    return [index.with_name(name) for name in sorted(set(names.values()))]


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and Path(name).suffix in SUFFIXES


def is_complete(folder: Path) -> bool:
    """Whether a component's folder has its configuration and all files of its weights. Raises UserError for a Git-LFS
    pointer in place of one."""
    own = [folder / "config.json", *weight_files(folder)]
    if len(own) == 1 or not all(p.is_file() for p in own):
        return False
    for path in own:
        refuse_pointer(path)
    return True


def brief(e: Exception) -> str:
    """What an exception of torch's says, in one line of at most 300 characters."""
    text = " ".join(str(e).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def check_finite(weights: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Raise UserError for weights that are not finite numbers."""
    for name, x in weights:
        if not torch.isfinite(x).all():
            raise UserError(f"{path} has weights that are not finite numbers (in {name}): it is damaged")


def read_state(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The weights in a file, or in a component's folder; those of safetensors on a device, others on the CPU.

    Raises UserError, with the file's name, if one is missing or damaged, would run code, is a Git-LFS pointer, or holds
    anything but weights.
    """
    path = Path(path)
    files = weight_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no weights: none of {', '.join(NAMES)}, and no index of several files")
    state: dict[str, Tensor] = {}
    for file in files:
        part = _read_file(file, device)
        twice = state.keys() & part.keys()
        if twice:
            raise UserError(f"{file} has {min(twice)}, which another file of {path} has, too")
        state |= part
    return state


def _read_file(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from harmonica.utils.torch_files import load_torch

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    refuse_pointer(path)
    if path.suffix in PICKLES:
        return _unwrapped(load_torch(path), path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is not a file of weights: its name must end in one of {', '.join(SUFFIXES)}")
    try:
        return _unwrapped(load_file(path, str(device)), path)
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a complete safetensors file ({e})") from None


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds."""
    while isinstance(found, dict):
        inside = next((found[k] for k in INSIDE if isinstance(found.get(k), dict) and found[k]), None)
        if inside is None:
            break
        found = inside
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} does not hold a state dict")
    return without_prefixes(found)


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of wrappers; of averaged and other weights the averaged ones."""
    state = {k.replace("_orig_mod.", ""): v for k, v in state.items()}
    while True:
        for prefix in (*AVERAGES, *WRAPPERS):
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if own and (prefix in AVERAGES or len(own) == len(state)):
                state = own
                break
        else:
            return state
