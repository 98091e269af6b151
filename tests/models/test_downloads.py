"""Weights and files of others: fetched once, resumed, checked, or asked for in one sentence."""

import errno
import functools
import http.server
import json
import os
import threading

import pytest
import torch

from harmonica.cli import main
from harmonica.models import downloads, get_model
from harmonica.models.downloads import File
from harmonica.utils.files import file_hash

CONTENT = bytes(range(256)) * 8192  # 2 MiB


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that knows the Range header."""

    def do_GET(self):
        body = (self.root / self.path.lstrip("/")).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append(start)
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A file on a local server, known to the suite as `some.bin`; the offsets that were asked for."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "some.bin").write_bytes(CONTENT)
    handler = type("Handler", (Ranges,), {"root": tmp_path / "web", "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/some.bin"
    right = file_hash(tmp_path / "web" / "some.bin")
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(downloads, "FILES", {"some.bin": File("some.bin", url, "a file for this test", right[:8])})
    yield handler.asked
    server.shutdown()


def test_fetch_and_keep(tmp_path, served):
    done = tmp_path / "done.json"
    for _ in range(2):
        assert main(["fetch", "some.bin", "--done", str(done)]) == 0
    path = tmp_path / "weights" / "some.bin"
    assert path.read_bytes() == CONTENT and served == [0]
    assert json.loads(done.read_text()) == {"some.bin": file_hash(path)}


def test_an_interrupted_download_resumes(tmp_path, served):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "some.bin.part").write_bytes(CONTENT[:100_000])
    assert main(["fetch", "some.bin"]) == 0
    assert served == [100_000] and (tmp_path / "weights" / "some.bin").read_bytes() == CONTENT


def test_a_complete_part_is_only_renamed(tmp_path, served):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "some.bin.part").write_bytes(CONTENT)
    assert main(["fetch", "some.bin"]) == 0
    assert (tmp_path / "weights" / "some.bin").read_bytes() == CONTENT


def test_what_came_is_checked(tmp_path, served, capsys):
    (tmp_path / "web" / "some.bin").write_bytes(CONTENT[::-1])
    assert main(["fetch", "some.bin"]) == 2
    assert "is not a file for this test" in capsys.readouterr().err
    assert not list((tmp_path / "weights").iterdir())


def test_offline_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    gone = File("x.npz", "http://127.0.0.1:9/x.npz", "the statistics of something")
    monkeypatch.setattr(downloads, "FILES", {"x.npz": gone})
    assert main(["fetch", "x.npz"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert all(x in err for x in ("x.npz (the statistics of something) is missing", gone.url, str(tmp_path / "x.npz")))
    assert main(["fetch", "y.npz"]) == 2
    assert "unknown model 'y.npz'" in capsys.readouterr().err


def test_a_full_disk_is_not_called_a_lack_of_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "part"))

    monkeypatch.setattr(downloads, "_download", full)
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    for name in ("DDIM20_router.pt", "dit-xl-2-256", "ada/small-dit"):
        assert main(["fetch", name]) == 2
        assert f"No space left on device: {tmp_path / 'part'}" in capsys.readouterr().err


def test_models_offline(tmp_path, capsys, monkeypatch):
    """Without network: what is missing, and where to put it; with the folders in place: nothing is asked for."""
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))

    def no_network(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    assert main(["fetch", "dit-xl-2-256"]) == 2
    err = capsys.readouterr().err
    assert "transformer/ and vae/ of DiT-XL/2 256 could not be downloaded" in err
    assert str(tmp_path / "dit-xl-2-256.pt") in err and err.count("\n") == 1
    for part in ("transformer", "vae"):
        (tmp_path / "dit-xl-2-256" / part).mkdir(parents=True)
        (tmp_path / "dit-xl-2-256" / part / "config.json").write_text("{}")
        (tmp_path / "dit-xl-2-256" / part / "diffusion_pytorch_model.bin").write_bytes(b"x")
    assert main(["fetch", "dit-xl-2-256", "--done", str(tmp_path / "done.json")]) == 0
    assert "dit-xl-2-256/vae/config.json" in json.loads((tmp_path / "done.json").read_text())


def test_an_original_checkpoint_is_converted(tmp_path, monkeypatch, tiny_diffusers, empty_hub):
    from harmonica.models.convert import diffusers_to_original

    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    state = diffusers_to_original(tiny_diffusers.state_dict() | {"pos_embed.pos_embed": torch.zeros(1, 4, 16)})
    torch.save(state, tmp_path / "dit-xl-2-256.pt")
    monkeypatch.setattr("harmonica.models.convert.original_config", lambda state, heads: dict(tiny_diffusers.config))
    assert main(["fetch", "dit-xl-2-256"]) == 2  # the autoencoder is still missing
    assert (tmp_path / "dit-xl-2-256" / "transformer" / "diffusion_pytorch_model.safetensors").is_file()


def test_weights_that_were_not_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    for name in ("dit-xl-2-256", "dit-xl-2-512"):
        assert get_model(name).layout.branches  # known without a download
        assert main(["plan", "harmonica", "--model", name, "--steps", "4", "-o", str(tmp_path / "p.safetensors")]) == 2
        assert f"run `harmonica fetch {name}`" in capsys.readouterr().err
    args = ["plan", "released_ltc", "--model", "dit-xl-2-256", "-o", str(tmp_path / "p.safetensors"), "--steps"]
    assert main([*args, "20"]) == 2
    assert "run `harmonica fetch DDIM20_router.pt`" in capsys.readouterr().err
    assert main([*args, "10"]) == 2
    assert "released for 20 and 50 steps, not for 10" in capsys.readouterr().err
    assert not (tmp_path / "p.safetensors").exists()


def test_models_share_their_text_encoder(tmp_path, capsys, monkeypatch, empty_hub):
    """PixArt-Σ 512 and 2K ask for one T5; weights in several files are complete when all are there."""
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    shared = tmp_path / "pixart_sigma_sdxlvae_t5_diffusers"
    for folder in (tmp_path / "pixart-sigma-512" / "transformer", tmp_path / "pixart-sigma-2k" / "transformer",
                   shared / "vae", shared / "text_encoder", shared / "tokenizer"):  # fmt: skip
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    (shared / "tokenizer" / "tokenizer_config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (shared / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    (shared / "text_encoder" / "model-1.safetensors").write_bytes(b"x")
    (shared / "text_encoder" / "diffusion_pytorch_model.safetensors").unlink()
    for name in ("pixart-sigma-512", "pixart-sigma-2k"):
        assert main(["fetch", name]) == 2
        err = capsys.readouterr().err
        assert f"into {shared / 'text_encoder'}" in err and "transformer" not in err and ".pt" not in err
    (shared / "text_encoder" / "model-2.safetensors").write_bytes(b"x")
    assert main(["fetch", "pixart-sigma-512", "pixart-sigma-2k"]) == 0
