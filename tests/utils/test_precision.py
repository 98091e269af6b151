"""Precision and device of a job."""

import pytest
import torch

from harmonica.cli import main
from harmonica.experiments import Experiment
from harmonica.plan import Plan, Router
from harmonica.training import iepo
from harmonica.utils import devices, memory
from harmonica.utils.errors import UserError
from harmonica.utils.precision import PRECISIONS, check_precision, dtype_of, products


def rounding() -> set[str]:
    """What float32 products on a GPU would do now."""
    return {torch.backends.cuda.matmul.fp32_precision, getattr(torch.backends.cudnn, "conv").fp32_precision}  # noqa: B009


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_round_only_where_they_may(precision):
    before = rounding()
    with products(precision):
        assert rounding() == {"ieee" if precision == "float32" else "tf32"}
        with products("float32"):
            assert rounding() == {"ieee"}
        assert rounding() == {"ieee" if precision == "float32" else "tf32"}
    assert rounding() == before


def test_dtypes():
    assert [dtype_of(p) for p in PRECISIONS] == [torch.float32, torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(UserError, match="unknown precision 'tf23'; did you mean 'tf32'?"):
        check_precision("tf23")


@pytest.mark.parametrize("compat", ["official", "paper"])
def test_lambda_is_measured_in_float32_within_a_training_in_tf32(monkeypatch, compat, tmp_path):
    seen, real = {}, {name: getattr(iepo, name) for name in ("official", "paper")}

    def noting(name):
        def measured(model, *args):
            seen[name] = rounding(), model.backbone.dtype
            return real[name](model, *args)

        return measured

    for name in real:
        monkeypatch.setattr(iepo, name, noting(name))
    settings = {"beta": 1e-4, "rounds": 1, "batch": 2, "compat": compat}
    for precision in ("tf32", "bfloat16"):
        e = Experiment.of("pocket-dit", "ddim", 3, 1.5, "harmonica", settings)
        plan, router = e.make(precision=precision)
        assert seen == {compat: ({"ieee"}, torch.float32)}
        assert plan.origin.hardware == router.origin.hardware
        assert plan.origin.hardware["precision"] == precision and "cores" in plan.origin.hardware["device"]
        router.save(tmp_path / "r.safetensors")
        assert Router.load(tmp_path / "r.safetensors").origin.hardware == router.origin.hardware


def test_float16_does_not_train():
    e = Experiment.of("pocket-dit", "ddim", 3, 1.5, "harmonica", {"beta": 1e-4, "rounds": 1})
    with pytest.raises(UserError, match="underflow in float16"):
        e.make(precision="float16")


def test_a_heuristic_has_no_hardware(tmp_path):
    assert main(["plan", "fora", "--steps", "4", "--precision", "float16", "-o", str(tmp_path / "p.safetensors")]) == 0
    assert Plan.load(tmp_path / "p.safetensors").origin.hardware == {}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    devices.default_device.cache_clear()
    yield monkeypatch
    devices.default_device.cache_clear()


def test_a_full_size_model_does_not_silently_run_on_the_cpu(no_gpu):
    with pytest.raises(UserError, match="DiT-XL/2 needs a GPU.*HARMONICA_DEVICE=cpu computes on the CPU all the same"):
        devices.require_gpu("DiT-XL/2")
    no_gpu.setenv(devices.VARIABLE, "cpu")
    devices.default_device.cache_clear()
    devices.require_gpu("DiT-XL/2")


@pytest.mark.parametrize(
    ("value", "says"), [("gpu", "must be cpu or cuda, got 'gpu'"), ("cuda", "finds no usable GPU")]
)
def test_a_device_that_is_not_there(no_gpu, value, says):
    no_gpu.setenv(devices.VARIABLE, value)
    with pytest.raises(UserError, match=says):
        devices.default_device()


def test_replay_on_a_gpu_that_is_not_there(no_gpu, capsys):
    no_gpu.setenv(devices.VARIABLE, "")  # restored after the test; the command sets it
    trace = "tests/conformance/data/ltc_dit_T10.safetensors"
    assert main(["replay", trace, "--device", "cuda"]) == 2
    assert "torch finds no usable GPU" in capsys.readouterr().err


def test_the_budget_of_memory(no_gpu):
    assert memory.budget(None) is None and memory.budget(2) == 2 * 2**30
    for wrong in (0, -1, float("inf")):
        with pytest.raises(UserError, match="gpu_memory must be a positive number of GiB"):
            memory.budget(wrong)
