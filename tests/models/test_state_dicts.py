"""Weights of others, in every form they come in: read alike by loading, converting and fetching, or refused."""

import argparse
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harmonica.cli import main
from harmonica.models import MODELS
from harmonica.models.convert import diffusers_to_original
from harmonica.models.loading import load_autoencoder, load_backbone, load_text_encoder
from harmonica.models.state_dicts import is_complete, read_state, without_prefixes
from harmonica.utils.errors import UserError

MODEL = MODELS["pocket-dit"]
NAME = "diffusion_pytorch_model"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def weights():
    return load_file(Path(MODEL.source) / "transformer" / f"{NAME}.safetensors")


def halves(state: dict) -> tuple[dict, dict]:
    names = sorted(state)
    return {k: state[k] for k in names[::2]}, {k: state[k] for k in names[1::2]}


def sharded(folder: Path, state: dict, suffix: str) -> None:
    write = save_file if suffix == ".safetensors" else torch.save
    index: dict[str, dict] = {"metadata": {}, "weight_map": {}}
    for n, part in enumerate(halves(state), 1):
        name = f"{NAME}-0000{n}-of-00002{suffix}"
        write(part, folder / name)
        index["weight_map"] |= dict.fromkeys(part, name)
    (folder / f"{NAME}{suffix}.index.json").write_text(json.dumps(index))


FORMS = {
    "safetensors": lambda folder, state: save_file(state, folder / f"{NAME}.safetensors"),
    "bin": lambda folder, state: torch.save(state, folder / f"{NAME}.bin"),
    "older bin": lambda folder, state: torch.save(state, folder / f"{NAME}.bin", _use_new_zipfile_serialization=False),
    "sharded safetensors": lambda folder, state: sharded(folder, state, ".safetensors"),
    "sharded bin": lambda folder, state: sharded(folder, state, ".bin"),
    "of DistributedDataParallel": lambda folder, state: torch.save(
        {f"module.{k}": v for k, v in state.items()}, folder / f"{NAME}.bin"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_is_loaded_converted_and_found_complete(form, weights, tmp_path):
    """The three agree, to the bit."""
    folder = tmp_path / "m" / "transformer"
    folder.mkdir(parents=True)
    for part in ("transformer/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / "m" / part).parent.mkdir(exist_ok=True)
        shutil.copy(Path(MODEL.source) / part, tmp_path / "m" / part)
    assert not is_complete(folder)
    FORMS[form](folder, weights)
    assert is_complete(folder)
    (folder / "._model.safetensors.index.json").write_bytes(b"\0\5\26\7")  # macOS' own
    found = read_state(folder)
    assert found.keys() == weights.keys() and all(torch.equal(found[k], weights[k]) for k in weights)
    own, other = load_backbone(MODEL), load_backbone(replace(MODEL, source=str(tmp_path / "m")))
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), other.state_dict().values(), strict=True))
    assert main(["convert", str(folder), "-o", str(tmp_path / "dit.pt")]) == 0
    expected = diffusers_to_original(weights)
    original = read_state(tmp_path / "dit.pt")
    assert original.keys() - {"pos_embed"} == expected.keys()
    assert all(torch.equal(original[k], expected[k]) for k in expected)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_an_original_checkpoint_is_converted_and_fetched(suffix, weights, tmp_path, monkeypatch, empty_hub):
    state = diffusers_to_original(weights) | {"pos_embed": torch.zeros(1, 16, 128)}
    path = tmp_path / f"dit-xl-2-256{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert main(["convert", str(path), "--heads", "4", "-o", str(tmp_path / "out")]) == 0
    written = read_state(tmp_path / "out")
    assert all(torch.equal(written[k], weights[k]) for k in weights)
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    assert main(["fetch", "dit-xl-2-256"]) == 2  # the autoencoder is missing; the transformer was converted
    assert is_complete(tmp_path / "dit-xl-2-256" / "transformer")


def test_what_is_around_the_weights_is_taken_off(tmp_path):
    own, other = {"blocks.0.a": torch.ones(1)}, {"blocks.0.a": torch.zeros(1)}

    def prefixed(state, prefix):
        return {f"{prefix}{k}": v for k, v in state.items()}

    for state in (
        own,
        prefixed(own, "module."),
        prefixed(own, "_orig_mod."),
        prefixed(own, "module._orig_mod."),
        prefixed(own, "model."),
        {"blocks.0._orig_mod.a": torch.ones(1)},  # torch.compile of the block alone
        prefixed(own, "ema.") | prefixed(other, "model."),
        prefixed(own, "ema_model.module.") | prefixed(other, "online_model.") | {"step": torch.zeros(())},
    ):
        assert without_prefixes(state) == own
    mixed = own | {"model.b": torch.ones(1)}  # a name of the model's own
    assert without_prefixes(mixed) == mixed
    for found in (
        {"ema": own, "model": other, "opt": {"state": {}}, "args": argparse.Namespace(lr=1)},
        {"state_dict": prefixed(own, "model."), "epoch": 3},
        {"model_state_dict": own, "optimizer": {}},
        {"model": {"state_dict": own}},
        {"ema": {}, "model": own},
    ):
        torch.save(found, tmp_path / "a.ckpt")
        assert read_state(tmp_path / "a.ckpt") == own


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_refusals(tmp_path, weights):
    """One sentence, with the file's name."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    index = folder / f"{NAME}.safetensors.index.json"

    def refused(says: str, path: Path = folder) -> None:
        with pytest.raises(UserError, match=says) as e:
            read_state(path)
        assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)

    refused("transformer has no weights")
    refused("none.pt does not exist", tmp_path / "none.pt")
    (tmp_path / "a.onnx").write_bytes(b"x")
    refused(r"a.onnx is not a file of weights: its name must end in one of .safetensors", tmp_path / "a.onnx")
    torch.save({"a": Malicious(tmp_path / "written")}, tmp_path / "a.pt")
    refused("a.pt is refused", tmp_path / "a.pt")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "written")))
    refused("b.pth is refused", tmp_path / "b.pth")
    assert not (tmp_path / "written").exists()
    torch.save([1], tmp_path / "c.pt")
    refused("c.pt does not hold a state dict", tmp_path / "c.pt")
    for name in (f"{NAME}.bin", f"{NAME}.safetensors"):
        (folder / name).write_bytes(POINTER)
        refused(f"{name} is a Git-LFS pointer, not the file itself: run `git lfs pull`")
        (folder / "config.json").write_text("{}")
        with pytest.raises(UserError, match="Git-LFS pointer"):
            is_complete(folder)
    (folder / f"{NAME}.bin").unlink()
    save_file(weights, folder / f"{NAME}.safetensors")
    whole = (folder / f"{NAME}.safetensors").read_bytes()
    for size in (0, 5, len(whole) // 2):
        (folder / f"{NAME}.safetensors").write_bytes(whole[:size])
        refused(f"{NAME}.safetensors is not a complete safetensors file")
    (folder / f"{NAME}.safetensors").unlink()
    torch.save(weights, folder / f"{NAME}.bin")
    whole = (folder / f"{NAME}.bin").read_bytes()
    for size in (0, 5, len(whole) // 2):
        (folder / f"{NAME}.bin").write_bytes(whole[:size])
        refused(f"{NAME}.bin is (damaged|refused)")
    (folder / f"{NAME}.bin").unlink()
    sharded(folder, weights, ".safetensors")
    (folder / f"{NAME}-00002-of-00002.safetensors").unlink()
    refused("00002-of-00002.safetensors does not exist")
    for content in ('{"weight_map": {"a": "b.safet', "[]", "{}", '{"weight_map": {"a": "../up.safetensors"}}'):
        index.write_text(content)
        refused("index.json is not an index of weights")


def test_files_with_flipped_bytes_never_end_in_a_traceback(tmp_path):
    """Other weights, or one sentence."""
    path = tmp_path / "a.pt"
    torch.save({f"blocks.{i}": torch.ones(3) for i in range(3)}, path)
    whole, g = path.read_bytes(), torch.Generator().manual_seed(0)
    for _ in range(200):
        at, value = (int(x) for x in torch.randint(0, 2**16, (2,), generator=g))
        damaged = bytearray(whole)
        damaged[at % len(whole)] ^= 1 + value % 255
        path.write_bytes(damaged)
        try:
            read_state(path)
        except UserError as e:
            assert "a.pt" in str(e)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("vae/config.json", b'{"latent_channels": 4', "config.json is not the configuration of AutoencoderKL"),
        (f"vae/{NAME}.safetensors", POINTER, "is a Git-LFS pointer"),
        (f"vae/{NAME}.safetensors", b"1234", "vae is damaged, or not AutoencoderKL"),
        (f"vae/{NAME}.safetensors", None, "vae has no complete weights"),
        ("text_encoder/config.json", b"", "config.json is not the configuration of T5EncoderModel"),
        ("text_encoder/model.safetensors", b"1234", "text_encoder is damaged, or not T5EncoderModel"),
    ],
)
def test_other_components(name, content, says, tmp_path):
    model = MODELS["pocket-pixart"]
    shutil.copytree(model.source, tmp_path / "m", ignore=shutil.ignore_patterns("*.npz", "clip", "transformer"))
    path = tmp_path / "m" / name
    path.write_bytes(content) if content is not None else path.unlink()
    load = load_autoencoder if name.startswith("vae") else load_text_encoder
    with pytest.raises(UserError, match=says) as e:
        load(replace(model, source=str(tmp_path / "m")))
    assert "\n" not in str(e.value)
