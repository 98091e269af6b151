"""Files of others: original DiT checkpoints and released routers, read, refused, and written back."""

import argparse
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harmonica.backbones.dit import DiT
from harmonica.cli import main
from harmonica.execution import Plain
from harmonica.execution.executor import evaluate
from harmonica.methods import released_routers
from harmonica.models import get_model
from harmonica.models.convert import diffusers_to_original, original_to_diffusers
from harmonica.models.loading import load_weights
from harmonica.models.state_dicts import read_state
from harmonica.plan import LIMIT, Origin, Protocol, Router
from harmonica.samplers import make_sampler
from harmonica.training.settings import routed_steps
from harmonica.utils.errors import UserError


@pytest.fixture
def original(tiny_diffusers):
    state = {k: v.clone() for k, v in tiny_diffusers.state_dict().items()}
    return diffusers_to_original(state | {"pos_embed.pos_embed": torch.randn(1, 4, 16)})


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"ema": w, "model": {}, "args": argparse.Namespace(lr=1)}])
def test_original_to_folder_and_back(tmp_path, original, wrap):
    torch.save(wrap(original), tmp_path / "dit.pt")
    assert main(["convert", str(tmp_path / "dit.pt"), "--heads", "2", "-o", str(tmp_path / "transformer")]) == 0
    assert main(["convert", str(tmp_path / "transformer"), "-o", str(tmp_path / "back.pt")]) == 0
    back = read_state(tmp_path / "back.pt")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[k], original[k]) for k in original)
    x, y = torch.randn(2, 4, 4, 4), torch.tensor([1, 5])
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    from_folder = load_weights(DiT(config, "tiny", original=True), tmp_path / "transformer", "tiny")
    in_memory = DiT(from_folder.config, original=True).load_weights(original_to_diffusers(original))
    with torch.no_grad():
        assert torch.equal(
            evaluate(from_folder, x, 9, from_folder.condition(y), Plain(from_folder)),
            evaluate(in_memory, x, 9, in_memory.condition(y), Plain(in_memory)),
        )


def test_folder_to_original_and_back(tmp_path, tiny_diffusers):
    """From diffusers the fixed position embedding is computed; everything else comes back as it was."""
    tiny_diffusers.save_pretrained(tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), "-o", str(tmp_path / "dit.pt")]) == 0
    assert main(["convert", str(tmp_path / "dit.pt"), "--heads", "2", "-o", str(tmp_path / "b")]) == 0
    a, b = (load_file(tmp_path / x / "diffusion_pytorch_model.safetensors") for x in "ab")
    assert set(b) - set(a) == {"pos_embed.pos_embed"}
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_checkpoints_that_do_not_fit(tmp_path, original, capsys):
    def convert(state, *more):
        torch.save(state, tmp_path / "dit.pt")
        status = main(["convert", str(tmp_path / "dit.pt"), "-o", str(tmp_path / "out"), *more])
        assert not (tmp_path / "out").exists()
        return status, capsys.readouterr().err

    missing = {k: v for k, v in original.items() if k != "blocks.1.mlp.fc2.bias"}
    for state, more, words in [
        (missing, ("--heads", "2"), "does not hold the weights of a DiT"),
        (original, ("--heads", "3"), "cannot be divided among 3 heads"),
        (original | {"blocks.0.skip": torch.zeros(1)}, ("--heads", "2"), "blocks.0.skip is not a parameter"),
        ({"weights": 1}, (), "does not hold a state dict"),
        (original | {"x_embedder.proj.bias": torch.full((16,), torch.nan)}, ("--heads", "2"), "not finite numbers"),
    ]:
        status, err = convert(state, *more)
        assert (status, err.count("\n")) == (2, 1) and words in err


def test_blocks_with_embedders_of_their_own_have_no_original(tiny_diffusers):
    state = {k: v.clone() for k, v in tiny_diffusers.state_dict().items()}
    state["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    with pytest.raises(UserError, match="differs from that of the first block"):
        diffusers_to_original(state)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("command", [["import-router"], ["convert", "-o", "out"]])
def test_a_malicious_pickle_is_refused(tmp_path, capsys, command):
    torch.save({"routers": {"0.prob": Malicious(tmp_path / "written")}}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "written")))
    for name in ("a.pt", "b.pt"):
        assert main([command[0], str(tmp_path / name), *command[1:]]) == 2
        err = capsys.readouterr().err
        assert "is refused" in err and err.count("\n") == 1
    assert not (tmp_path / "written").exists()


def released_file(path, steps=6, branches=56, fixed=False, **args):
    """A file in the released layout, t counting down: random as before training, t = 2 reuses all."""
    rows = {f"{t}.prob": torch.randn(branches, generator=torch.Generator().manual_seed(t)) for t in range(steps)}
    rows["2.prob"] = torch.full((branches,), -5.0)
    if fixed:
        rows[f"{steps - 1}.prob"] = torch.full((branches,), 5.0)
    torch.save({"routers": rows, "opt": {"state": {}}, "args": argparse.Namespace(**args)}, path)
    return rows


def test_import_a_released_router(tmp_path, capsys):
    rows = released_file(tmp_path / "r.pt", model="DiT-XL/2", image_size=256, l1=5e-6)
    out = tmp_path / "plan.safetensors"
    assert main(["import-router", str(tmp_path / "r.pt"), "--threshold", "0.01", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "learning_to_cache for dit-xl-2-256, ddim, 6 steps × 56 branches" in text and f"CUR {100 / 6:.2f} %" in text
    router = Router.load(tmp_path / "plan.router.safetensors")
    assert router.origin.settings["l1"] == 5e-6
    np.testing.assert_array_equal(router.logits[3], rows["2.prob"].numpy())
    assert (router.logits[[0, 2, 4]] == 5).all()  # odd countdown indices compute
    assert main(["export-router", str(tmp_path / "plan.router.safetensors"), "-o", str(tmp_path / "back.pt")]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["routers"]
    assert list(back) == [f"{t}.prob" for t in range(6)]
    assert torch.equal(back["0.prob"], rows["0.prob"])


def test_a_harmonica_checkpoint_routes_every_step(tmp_path):
    rows = released_file(tmp_path / "r.pt", fixed=True, model="DiT-XL/2", image_size=512)
    router = released_routers.read(tmp_path / "r.pt").router()
    assert (router.origin.method, router.protocol.model) == ("harmonica", "dit-xl-2-512")
    np.testing.assert_array_equal(router.logits, np.stack([rows[f"{t}.prob"].numpy() for t in range(5, -1, -1)]))


@pytest.mark.parametrize("model", ["dit-xl-2-256", "uvit-h-2-256"])
def test_a_router_comes_back_as_it_was_written(tmp_path, model):
    """Learning-to-Cache's, by steps for DiT and by intervals for U-ViT: only what is routed."""
    about = get_model(model)
    steps, branches = 8, len(about.layout.branches)
    stages = make_sampler(about.sampler, steps).stages
    logits = np.full((steps, branches), LIMIT, np.float32)
    for k, s in enumerate(routed_steps(steps, stages)):
        logits[s] = -1.0 - k
    router = Router(logits, Protocol(model, about.sampler, steps, 1.5), Origin("learning_to_cache", {}))
    released_routers.write(router, tmp_path / "r.pt")
    back = released_routers.read(tmp_path / "r.pt").router(model, "learning_to_cache")
    np.testing.assert_array_equal(back.logits, logits)


def test_router_files_that_do_not_fit(tmp_path, capsys):
    released_file(tmp_path / "a.pt", branches=60)
    released_file(tmp_path / "b.pt")
    torch.save({"1.prob": torch.zeros(56)}, tmp_path / "c.pt")
    torch.save([1, 2], tmp_path / "d.pt")
    (tmp_path / "e.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:500])
    for name, words in [
        ("a", "60 branches per step and does not say which model it is for"),
        ("b", "does not say which model it is for"),
        ("c", "the steps must be named 0.prob"),
        ("d", "contains no routers"),
        ("e", "damaged"),
        ("none", "does not exist"),
    ]:
        assert main(["import-router", str(tmp_path / f"{name}.pt")]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    released_file(tmp_path / "f.pt", model="DiT-XL/2", image_size=512)
    assert main(["import-router", str(tmp_path / "f.pt"), "--model", "dit-xl-2-256"]) == 2
    assert "says that it is for dit-xl-2-512, not for dit-xl-2-256" in capsys.readouterr().err
    assert main(["import-router", str(tmp_path / "f.pt"), "--cfg", "0.5", "-o", str(tmp_path / "p.safetensors")]) == 2
    assert "guidance scale must be at least 1" in capsys.readouterr().err and not (tmp_path / "p.safetensors").exists()
    assert main(["import-router", str(tmp_path / "a.pt"), "--model", "dit-xl-2-256"]) == 2
    assert "has 60 branches per step, but dit-xl-2-256 has 56" in capsys.readouterr().err


def test_a_router_of_uvit_is_read_by_intervals(tmp_path, capsys):
    """Entry j is the beginning of interval j, for 1 ≤ j < T/2; the middles, and the rest of the file, are not used."""
    rows = {f"{j}.prob": torch.full((58,), -9.0 if j in (1, 3) else 9.0) for j in range(8)}
    rows["2.prob"][:2] = 2.0  # 0.88: reused at 0.9, computed at 0.8
    rows["5.prob"][:] = -9.0  # behind T/2
    rows["7.prob"] = torch.randn(58)
    torch.save(rows, tmp_path / "r.pth")
    router = released_routers.read(tmp_path / "r.pth").router()
    p = router.protocol
    assert (p.model, p.sampler, p.steps, p.cfg) == ("uvit-h-2-256", "dpm-solver", 8, 1.4)
    assert router.origin.method == "learning_to_cache"
    reused = (router.plan(released_routers.threshold(p.model)).actions != 0).sum(1)
    assert reused.tolist() == [0, 0, 58, 0, 2, 0, 58, 0]
    assert (router.plan(0.8).actions[4] == 0).all()
    assert main(["import-router", str(tmp_path / "r.pth")]) == 0
    assert "of the 3 routed steps' branches, 67.82 % are reused" in capsys.readouterr().out


def test_an_original_uvit_is_read_by_its_names(tmp_path):
    """A file with the original's parameter names and nothing but its configuration; another depth is refused."""
    from harmonica.backbones.uvit import UViT
    from harmonica.models.convert import to_uvit_folder

    config = dict(img_size=4, patch_size=2, in_chans=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=False,
                  num_classes=6)  # fmt: skip
    model = UViT(config)
    torch.save(model.state_dict(), tmp_path / "uvit.pth")
    to_uvit_folder(tmp_path / "uvit.pth", tmp_path / "transformer", config)
    written = json.loads((tmp_path / "transformer" / "config.json").read_text())
    again = load_weights(UViT(written, "tiny"), tmp_path / "transformer", "tiny")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(UserError, match="does not hold the weights of this U-ViT"):
        to_uvit_folder(tmp_path / "uvit.pth", tmp_path / "other", config | {"depth": 4})
    assert not (tmp_path / "other").exists()
