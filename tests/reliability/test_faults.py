"""Memory, disks, hostile files: one sentence that names what to do, and the same command goes on afterwards."""

import argparse
import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from harmonica.cli import main
from harmonica.evaluation import generate
from harmonica.evaluation.references import Reference
from harmonica.experiments import Experiment
from harmonica.methods import get_method, known_methods
from harmonica.models import get_model
from harmonica.plan import Plan, Protocol
from harmonica.utils import guarded
from harmonica.utils.arrays import Form, read_npz, write_npz
from harmonica.utils.errors import UserError
from harmonica.utils.torch_files import load_torch

FORMS = {"x": Form("f", (1, 2))}


def raising(e: BaseException):
    def function():
        raise e

    return function


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            MemoryError("Unable to allocate 9 TiB"),
            "out of memory (Unable to allocate 9 TiB): lower --batch or",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory (CUDA out of memory): lower --batch"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
         "out of memory (you tried to allocate 9 bytes): lower --batch or --memory"),
        (RuntimeError("Storage size calculation overflowed with sizes=[1]"), "for this machine (Storage size"),
        (TypeError("empty(): Overflow when unpacking long long\nException raised"), "a number is too large"),
        (ValueError("Maximum allowed dimension exceeded"), "a number is too large"),
        (OverflowError("Python int too large"), "a number is too large for this machine (Python int too large); lower"),
    ],
)  # fmt: skip
def test_out_of_memory_is_one_sentence(capsys, error, says):
    assert guarded("harmonica", raising(error), ["--batch", "--memory"]) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1


def test_another_error_of_torch_is_not_called_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        guarded("harmonica", raising(RuntimeError("shapes differ")))
    with pytest.raises(ValueError, match="wrong"):
        guarded("harmonica", raising(ValueError("wrong")))


def test_memory_truly_runs_out(capsys, tmp_path, monkeypatch):
    """A batch that needs more than the machine has; the command says which options it has."""
    assert main(["plan", "full", "--steps", "1", "-o", str(tmp_path / "p.safetensors")]) == 0
    sizes = ["--images", "10000000000", "--batch", "10000000000", "--chunk", "10000000000"]
    assert main(["sample", str(tmp_path / "p.safetensors"), "-o", str(tmp_path / "out"), *sizes]) == 2
    err = capsys.readouterr().err
    assert "lower --batch or --memory or --chunk" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def bomb(path):
    """An npz file of a megabyte that would take half a GiB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 27,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z, z.open("x.npy", "w") as f:
        f.write(header.getvalue())
        for _ in range(1 << 4):
            f.write(bytes(1 << 25))


def test_bombs_take_no_memory(tmp_path):
    bomb(tmp_path / "b.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for own in (True, False):
        with pytest.raises(UserError, match="is not a test .*(would take 0.5 GiB|no checksum)"):
            read_npz(tmp_path / "b.npz", "a test", FORMS, own=own)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    # a header that promises more than the entry has
    write_npz(tmp_path / "a.npz", {"x": np.zeros(3)})
    with zipfile.ZipFile(tmp_path / "a.npz") as z:
        parts = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as z:
        for name, data in parts.items():
            z.writestr(name, data.replace(b"(3,)", b"(3000000000000,)"[:4].ljust(4)) if name == "x.npy" else data)
    with pytest.raises(UserError, match="is not a test"):
        read_npz(tmp_path / "a.npz", "a test", FORMS)
    torch.save({"0.prob": torch.zeros(1).expand(10**12)}, tmp_path / "t.pth")
    with pytest.raises(UserError, match="is damaged .*a tensor of shape"):
        load_torch(tmp_path / "t.pth")


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    """Pickles in every container that could hold one, and YAML tags."""
    from harmonica.experiments import config

    mark, hostile = tmp_path / "ran", np.array([Runs(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "000000-000000.npz", images=hostile, labels=hostile, first=0, sha256="x")
    np.savez(tmp_path / "r.npz", mu=hostile, sigma=hostile, mu_s=hostile, sigma_s=hostile, features=hostile)
    torch.save({"routers": Runs(mark)}, tmp_path / "t.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"0.prob": Runs(mark)}))
    (tmp_path / "c.yaml").write_text(f"images: !!python/object/apply:os.system ['touch {mark}']\n")
    for read in (
        lambda: list(generate.chunks([tmp_path / "000000-000000.npz"])),
        lambda: Reference.load(tmp_path / "r.npz"),
        lambda: read_npz(tmp_path / "r.npz", "a test", {"mu": Form("f", (1,))}, own=False),
        lambda: load_torch(tmp_path / "t.pth"),
        lambda: load_torch(tmp_path / "old.pth"),
        lambda: config.from_yaml(tmp_path / "c.yaml"),
    ):
        with pytest.raises(UserError):
            read()
    assert main(["import-router", str(tmp_path / "t.pth")]) == 2 and not mark.exists()


def test_aliases_that_stand_for_millions_of_values(tmp_path):
    from harmonica.experiments import config

    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    (tmp_path / "d.yaml").write_text("images: &x [*x]\n")
    for name in "cd":
        with pytest.raises(UserError, match="more than 100000 values"):
            config.tables({"tables": {}}, config.from_yaml(tmp_path / f"{name}.yaml"))


def test_a_flipped_bit_in_a_released_router_is_seen(tmp_path):
    """Torch reads past its own checksums: the weights would be others."""
    torch.save({"args": argparse.Namespace(lr=1), "routers": {"0.prob": torch.ones(56)}}, tmp_path / "t.pth")
    data = bytearray((tmp_path / "t.pth").read_bytes())
    at = data.index(torch.ones(56).numpy().tobytes())
    data[at + 3] ^= 1
    (tmp_path / "t.pth").write_bytes(data)
    assert torch.load(tmp_path / "t.pth", weights_only=False)["routers"]["0.prob"][0] != 1
    with pytest.raises(UserError, match="the checksum of .* differs"):
        load_torch(tmp_path / "t.pth")


def test_the_shipped_files_are_those_that_were_recorded(tmp_path, monkeypatch):
    """After a model was made anew, `harmonica.models.shipped.record()` writes the record."""
    from harmonica.models import shipped

    recorded = shipped.Checksums.load(shipped.RECORD).files
    assert len(recorded) == 23 and {p.split("/")[0] for p in recorded} >= {"fashion-mnist", "noto-emoji"}
    for name in recorded:
        assert shipped.verified(shipped.POCKET / name).is_file()
    monkeypatch.setattr(shipped, "POCKET", tmp_path)
    (tmp_path / "noto-emoji").mkdir()
    path = tmp_path / "noto-emoji" / "captions.csv"
    path.write_text("caption\n")
    with pytest.raises(UserError, match="captions.csv is damaged: its sha256 is not the recorded one; `git checkout"):
        shipped.verified(path)


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    from harmonica.evaluation.records import Drift, Metrics

    with pytest.raises(UserError, match="d.json is not written: a file of drifts must have finite numbers"):
        Drift("cpu", "float32", 8, {"a": [float("nan")]}).save(tmp_path / "d.json")
    assert not list(tmp_path.iterdir())
    Drift("cpu", "float32", 8, {"a": [0.5]}).save(tmp_path / "d.json")
    with pytest.raises(UserError, match="d.json is not a file of metrics"):
        Metrics.load(tmp_path / "d.json")


def test_after_space_is_made_the_same_command_goes_on(tmp_path, capsys):
    """A limit of the size of files that a chunk does not fit into, as a full disk, then none."""
    plan, out = tmp_path / "p.safetensors", tmp_path / "out"
    assert main(["plan", "full", "--steps", "2", "-o", str(plan)]) == 0
    sizes = ["--images", "12", "--chunk", "8", "--batch", "8"]
    command = ["sample", str(plan), *sizes, "-o", str(out), "--manifest", str(tmp_path / "m.json")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))  # Python ignores the signal: a write fails
    try:
        status = main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and "File too large" in said and said.endswith(".npz; finished work is kept")
    assert not [p for p in out.rglob("*") if p.is_file()] and not (tmp_path / "m.json").exists()
    assert main(command) == 0
    assert sorted(p.name for p in out.rglob("*.npz")) == ["000000-000007.npz", "000008-000011.npz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_results_are_named(tmp_path, capsys):
    (tmp_path / "results").mkdir(mode=0o500)
    assert main(["plan", "fora", "-o", str(tmp_path / "results" / "p.safetensors")]) == 2
    assert f"Permission denied: {tmp_path}/results/" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_named(tmp_path, capsys):
    """A file where a folder should be, which root cannot write to either."""
    (tmp_path / "results").write_text("")
    assert main(["plan", "fora", "-o", str(tmp_path / "results" / "p.safetensors")]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/results" in err and len(err.strip().splitlines()) == 1
    (tmp_path / "results").unlink()
    assert main(["plan", "fora", "-o", str(tmp_path / "results" / "p.safetensors")]) == 0


def untrained(name: str, model: str, sampler: str) -> Plan | None:
    """The plan of a method that needs neither a training nor a download."""
    from harmonica.methods import LearnedMethod

    cls = get_method(name)
    if issubclass(cls, LearnedMethod) or (cls.kinds and get_model(model).kind not in cls.kinds):
        return None
    sources = {"harmonica": untrained("fora", model, sampler)} if cls.requires else {}
    settings = {"steps": 4} if name in ("fewer_steps", "better_solver", "transfer") else {}
    try:
        return Experiment.of(model, sampler, 8, 1.4, name, settings).make(sources)[0]
    except UserError as e:
        assert name == "released_ltc", e  # it needs a download
        return None


@pytest.mark.parametrize("model", ["pocket-dit", "pocket-uvit", "pocket-pixart"])
def test_every_plan_is_shown(model, tmp_path, capsys):
    """Faster Diffusion's had an action that was not."""
    shown = []
    about = Protocol(model, get_model(model).sampler, 8, 1.4)
    for name in known_methods():
        calibrated = name != "released_ltc" and get_method(name)().reads(about).weights
        plan = None if calibrated else untrained(name, model, get_model(model).sampler)
        if plan is not None:
            plan.save(tmp_path / f"{name}.safetensors")
            assert main(["show", str(tmp_path / f"{name}.safetensors")]) == 0
            assert len(capsys.readouterr().out.strip().splitlines()) >= plan.steps + 2
            shown.append(name)
    assert {"full", "fora", "delta_dit", "random_plan"} <= set(shown)
    assert ("faster_diffusion" in shown) == (model == "pocket-uvit")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    code = "harmonica methods | head -1; exit ${PIPESTATUS[0]}"
    bin_ = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(["bash", "-c", code], env={**os.environ, "PATH": bin_}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout and not done.stderr
