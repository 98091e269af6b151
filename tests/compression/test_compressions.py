"""Compressions as files and as backbones: any plan runs on one, and a file says all of it."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import protocol
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode
from torchao.quantization import Float8Tensor, quant_api

from baselines.compressions.diff_pruning import DiffPruning
from harmonica.cli import main
from harmonica.compression import Compression, CompressionTask, build, get_compressor, known_compressors
from harmonica.compression.costs import bit_operations
from harmonica.compression.linear import QuantLinear
from harmonica.compression.places import Place, layers
from harmonica.compression.units import importance, pruned_layout
from harmonica.execution import Batch, Guided, Plain, run
from harmonica.experiments import CompressedModel, Experiment
from harmonica.methods import Task
from harmonica.models import MODELS, get_model
from harmonica.models.loading import load_backbone, new_backbone
from harmonica.plan import REUSE, Origin, Plan, Protocol, all_compute, macs
from harmonica.runtimes.compiled import Compiled
from harmonica.training import Recipe
from harmonica.training.checkpoint import identity
from harmonica.utils import UserError

POCKET = [n for n, m in MODELS.items() if m.scale == "pocket"]
QUICK = {
    "w8a8": {}, "efficientdm": {"trajectories": 1, "batch": 2}, "ptq4dit": {"samples": 12},
    "diff_pruning": {"updates": 1, "batch": 2, "stride": 500},
}  # fmt: skip


def made(tmp_path, name: str, model: str = "pocket-dit", steps: int = 3, **more) -> Compression:
    about, steps = get_model(model), steps + steps % 2 * (model == "pocket-uvit")
    on = CompressedModel.of(Protocol(model, about.sampler, steps, about.cfg), name, QUICK.get(name, {}) | more)
    return on.make().save(tmp_path / f"{on.slug}.safetensors")


def half_reused(p: Protocol) -> Plan:
    actions = np.zeros((p.steps, len(get_model(p.model).layout.branches)), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, p)


def sqnr(signal, other) -> float:
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith(("dit-xl-2-512", "pixart-alpha-5"))])
def test_every_layer_of_every_backbone_has_a_place(name):
    with torch.device("meta"):
        found = {layer: place for layer, _, place in layers(new_backbone(get_model(name)))}
    assert {Place.STREAM, Place.EDGE, Place.WEIGHTS} <= set(found.values())


@pytest.mark.parametrize("name", sorted(QUICK))
@pytest.mark.parametrize("model", POCKET)
def test_contract(tmp_path, name, model):
    """Made, written, read: stated bytes are the file's; the backbone has the same interface, any plan runs on it."""
    made_one = made(tmp_path, name, model)
    path = next(tmp_path.glob("*.safetensors"))
    read, about = Compression.load(path), get_model(model)
    assert read.bytes == path.stat().st_size and len(read.checksum) == 64 and read.checksum == made_one.checksum
    assert read.origin.method == name and read.origin.cost["training_s"] >= 0
    full, own = load_backbone(about), read.apply(load_backbone(about))
    assert own.latent_shape == full.latent_shape and len(own.layout.branches) == len(full.layout.branches)
    batch = Batch.of(full, 0, 0, 2)
    for plan in (all_compute(read.protocol, len(own.layout.branches)), half_reused(read.protocol)):
        ours, theirs = run(own, plan, batch), run(full, plan, batch)
        assert torch.isfinite(ours).all() and not torch.equal(ours, theirs)
        assert name != "w8a8" or sqnr(theirs, ours) > 8  # the others are hardly calibrated here
    plan = half_reused(read.protocol)
    assert macs(plan, read.layout_of(about.layout)) <= macs(plan, about.layout)
    assert bit_operations(plan, about.layout, read) < 0.75 * bit_operations(plan, about.layout, None)
    assert read.bytes < 4 * about.layout.parameters


@pytest.mark.parametrize("bits", [4, 8])
def test_four_bits_are_half_a_byte(tmp_path, bits):
    c = made(tmp_path, "ptq4dit", weight_bits=bits)
    own = c.apply(load_backbone(get_model("pocket-dit")))
    layer = own.up[0]
    assert isinstance(layer, QuantLinear) and layer.integers.min() == -(2 ** (bits - 1))
    assert int(layer.integers.max()) == 2 ** (bits - 1) - 1
    assert c.bytes < (2.2e6 if bits == 4 else 3.2e6)


def test_a_damaged_file(tmp_path):
    made(tmp_path, "w8a8")
    path = next(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="does not have the checksum in its metadata"):
        Compression.load(path).apply(load_backbone(get_model("pocket-dit")))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        Compression.load(path)
    with pytest.raises(UserError, match="does not exist; make it with `harmonica compress`"):
        Compression.load(tmp_path / "nowhere.safetensors")


def test_what_a_damaged_file_says_is_not_read(tmp_path):
    """Tables print it, and never read the tensors."""
    made(tmp_path, "w8a8")
    path = next(tmp_path.glob("*.safetensors"))
    data = path.read_bytes()
    at = data.index(b"macs") + 12
    path.write_bytes(data[:at] + (b"7" if data[at : at + 1] != b"7" else b"8") + data[at + 1 :])
    with pytest.raises(UserError, match="what its metadata says does not have the checksum"):
        Compression.load(path)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("efficientdm", "harmonica.compression.calibration.noise_of"),
        ("diff_pruning", "baselines.compressions.diff_pruning.Images.loss"),
    ],
)
def test_a_loss_that_is_not_finite_ends_it(tmp_path, monkeypatch, name, where):
    calls = []

    def loss(*args):
        calls.append(1)
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr(where, loss)
    with pytest.raises(UserError, match="the loss is nan"):
        made(tmp_path, name)
    assert len(calls) == 1 and not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    c = made(tmp_path, "w8a8")
    name = next(k for k, v in c.tensors.items() if v.is_floating_point())
    wrong = replace(c, read=lambda: c.tensors | {name: c.tensors[name] * float("inf")})
    with pytest.raises(UserError, match="is not finite: it was not saved"):
        wrong.save(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="says a number that is not finite"):
        replace(c, origin=replace(c.origin, notes={"loss": float("nan")})).save(tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("settings", [{"updates": 0}, {"batch": -1}, {"lr": -1.0}])
def test_settings_of_the_training_after_pruning(settings):
    with pytest.raises(UserError, match=r"must be in [\[(]"):
        CompressedModel.of(protocol(3), "diff_pruning", settings)


def test_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="made for pocket-dit, and does not fit pocket U-ViT"):
        made(tmp_path, "w8a8").apply(load_backbone(get_model("pocket-uvit")))


def test_scales_of_steps_in_a_compiled_plan(tmp_path):
    """Steps that compute the same share a graph, and still take their own scales. On some processors the graph's GELU
    moves a few integers to their neighbours."""
    c = made(tmp_path, "efficientdm", steps=3)
    tensors = c.tensors
    for name in [k for k in tensors if k.endswith("act_scale") and len(tensors[k]) > 1]:
        tensors[name] = tensors[name] * torch.tensor([1.0, 3.0, 0.3])
    own = c.apply(load_backbone(get_model("pocket-dit")))
    plan, batch = all_compute(c.protocol, len(own.layout.branches)), Batch.of(own, 0, 0, 2)
    compiled = Compiled(own, plan, backend="eager")
    assert sqnr(run(own, plan, batch), run(own, plan, batch, compiled)) > 40 and len(compiled._compiled) == 1


def test_dynamic_scales_in_a_compiled_plan(tmp_path):
    """Rounding of a float flips integers of the inputs, so outputs are less alike than those of fixed scales."""
    c = made(tmp_path, "w8a8", steps=3)
    own = c.apply(load_backbone(get_model("pocket-dit")))
    plan, batch = half_reused(c.protocol), Batch.of(own, 0, 0, 2)
    compiled = Compiled(own, plan, backend="eager")
    assert sqnr(run(own, plan, batch), run(own, plan, batch, compiled)) > 25


def test_a_router_is_trained_on_the_quantised_model(tmp_path):
    """Teacher and student are; its origin says so."""
    c = made(tmp_path, "efficientdm")
    settings = {"beta": 1e-3, "rounds": 2, "batch": 2}
    e = Experiment.of("pocket-dit", "ddim", 3, 1.3, "harmonica", settings)
    plan, router = e.make(compression=c)
    assert plan.origin.notes["compression"] == router.origin.notes["compression"]
    assert plan.origin.notes["compression"]["checksum"] == c.checksum
    _, plain = e.make()
    assert (router.logits != plain.logits).any() and "compression" not in plain.origin.notes
    task, recipe = Task(e.protocol, Origin("harmonica")), Recipe(rounds=2, batch=2, lr=0.5)
    assert identity(task, recipe) != identity(replace(task, compression=c), recipe)  # of checkpoints
    with pytest.raises(UserError, match="the compression is of pocket-dit, not of pocket-uvit"):
        Experiment.of("pocket-uvit", "dpm-solver", 4, 1.4, "fora", {}).make(compression=c)


def test_slugs_of_uncompressed_rows_stay():
    e = Experiment.of("pocket-dit", "ddim", 20, 1.3, "full", {})
    assert e.slug == "pocket-dit_ddim20_cfg1.3_full"
    on = CompressedModel.of(e.protocol, "efficientdm", {"weight_bits": 4})
    assert Experiment(e.protocol, "full", e.method, compression=on).slug == f"{e.slug}_on-efficientdm-weight_bits4"
    assert on.slug == "pocket-dit_ddim20_cfg1.3_efficientdm-weight_bits4"


def test_float8_needs_a_gpu(tmp_path, capsys):
    args = ["compress", "fp8", "--steps", "2", "-o", str(tmp_path / "c.safetensors")]
    assert main(args) == 2 and not list(tmp_path.iterdir())
    err = capsys.readouterr().err.strip()
    assert "fp8 needs a GPU with float8 products" in err.splitlines()[-1]
    task = CompressionTask(Protocol("pocket-dit", "ddim", 2, 1.3), Origin("fp8"))
    c = get_compressor("fp8")().rounded(task).save(tmp_path / "c.safetensors")
    assert not c.differentiable
    with pytest.raises(UserError, match="fp8 needs a GPU"):
        c.apply(load_backbone(get_model("pocket-dit")))
    with pytest.raises(UserError, match="passes no gradients"):
        Experiment.of("pocket-dit", "ddim", 2, 1.3, "harmonica", {}).make(compression=c)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_layers_of_float8_in_every_precision(precision, monkeypatch):
    """By the CPU's own product of float8, which takes the tensors that a GPU's takes; compiled, too."""
    monkeypatch.setattr(build, "require_float8", lambda: None)
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)
    p, full = Protocol("pocket-dit", "ddim", 8, 1.3), load_backbone(get_model("pocket-dit"), precision)
    c = get_compressor("fp8")().rounded(CompressionTask(p, Origin("fp8")))
    own = c.apply(load_backbone(get_model("pocket-dit"), precision))
    named = {n: getattr(m, "weight", None) for n, m in own.named_modules()}
    found = {n.removesuffix(".product"): w for n, w in named.items() if isinstance(w, Float8Tensor)}
    assert set(found) == {n for n, layer in c.layers.items() if layer.scales == "float8"}
    for name, weight in found.items():  # bfloat16 between the file's integers and torchao's moves none to another
        assert (weight.qdata.float() == c.tensors[f"{name}.integers"].float()).float().mean() > 0.999
        x = torch.randn(64, weight.shape[1], dtype=full.dtype)
        assert sqnr(*(b.get_submodule(name)(x).float() for b in (full, own))) > 25
    plan, batch = half_reused(p), Batch.of(full, 0, 0, 2)
    got = run(own, plan, batch)
    # another order of sums moves a few of the integers to their neighbours
    assert sqnr(got.float(), run(own, plan, batch, Compiled(own, plan, backend="eager")).float()) > 15


@pytest.mark.parametrize("name", ["w8a8", "fp8"])
def test_what_is_compiled_later_is_not_changed(name, monkeypatch):
    """torchao sets options of Inductor for the whole process unless it is told not to."""
    monkeypatch.setattr(build, "require_float8", lambda: None)
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)
    p, before = Protocol("pocket-dit", "ddim", 2, 1.3), inductor.get_config_copy()
    task = CompressionTask(p, Origin(name))
    c = get_compressor(name)().rounded(task) if name == "fp8" else get_compressor(name)().make(task)
    c.apply(load_backbone(get_model("pocket-dit")))
    assert inductor.get_config_copy() == before


@pytest.mark.parametrize("name", sorted(known_compressors()))
def test_a_compressor_says_what_it_is(name):
    cls = get_compressor(name)
    assert cls.title and all(f.metadata["meaning"] for f in fields(cls))


@pytest.mark.parametrize("settings", [{"weight_bits": 1}, {"act_bits": 9}])
@pytest.mark.parametrize("name", ["efficientdm", "ptq4dit"])
def test_bits_that_are_not_there(name, settings):
    with pytest.raises(UserError, match="must be in \\[2, 8\\]"):
        CompressedModel.of(protocol(3), name, settings)


def test_the_layout_of_a_pruned_model_is_what_it_computes(tmp_path):
    """MACs by torch's counter on the pruned backbone itself."""
    c, about = made(tmp_path, "diff_pruning", ratio=0.5), get_model("pocket-dit")
    own = c.apply(load_backbone(about))
    assert own.heads == c.kept["heads"] == 2 and c.kept["hidden"] == 256
    with FlopCounterMode(display=False) as counter:
        condition = own.condition(torch.zeros(1, dtype=torch.long))
        Plain(own).evaluate(own, torch.randn(1, *own.latent_shape), 500, condition)
    assert counter.get_total_flops() / 2 == pytest.approx(own.layout.macs, rel=1e-3)
    assert c.origin.cost["images"] > 0 and c.origin.cost["updates"] == 1


def test_pruning_meets_the_macs_of_a_cache(tmp_path):
    c, layout = made(tmp_path, "diff_pruning"), get_model("pocket-dit").layout
    target = layout.macs - 0.375 * layout.branch_macs.sum()
    assert c.layout_of(layout).macs == pytest.approx(target, rel=0.06)  # a head is a quarter of attention


def test_units_are_ranked_by_absolute_gradients(tiny):
    """Σ|w ∂w|, not |Σ w ∂w|: terms that cancel count."""
    model = tiny.requires_grad_(True)
    try:
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        weight = model.up[0].weight
        weight.grad[3] = 1 / weight.detach()[3] * torch.tensor([1.0, -1.0]).repeat(weight.shape[1] // 2)
        scores = importance(model, 2)[0, "hidden"]
        assert scores.argmax() == 3 and scores[3] == pytest.approx(weight.shape[1] / 2)  # the mean with `down`
    finally:
        for p in model.parameters():
            p.grad = None
        model.requires_grad_(False)


def test_a_ratio_leaves_whole_heads():
    assert DiffPruning._left(0.5, 4, 512) == (2, 256) and DiffPruning._left(0.95, 4, 512) == (1, 24)
    layout = get_model("pocket-dit").layout
    kept = pruned_layout(layout, 1.0, 1.0, 5.0, 0.0)
    assert kept["branch_macs"] == layout.branch_macs.tolist() and kept["once_macs"] == layout.once_macs


def test_commands(tmp_path, capsys, monkeypatch):
    """Compress, show, sample and time, as a person would."""
    monkeypatch.chdir(tmp_path)
    run_ = lambda *args: main([str(a) for a in args])  # noqa: E731
    assert run_("compress", "ptq4dit", "--steps", 2, "--set", "samples=2", "-o", "c.safetensors") == 0
    out = capsys.readouterr().out
    assert "GMACs" in out and "bit operations" in out and "x smaller than the weights in float32" in out
    assert run_("show", "c.safetensors") == 0 and "qkv.0 " in capsys.readouterr().out
    assert run_("plan", "full", "--steps", 2, "-o", "full.safetensors") == 0
    sampled = ["sample", "full.safetensors", "--images", 2, "-o", "out", "--manifest", "m.json"]
    assert run_(*sampled, "--compression", "c.safetensors") == 0 and run_(*sampled) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    timed = ["latency", "full.safetensors", "--batch", 1, "--rounds", 1]
    assert run_(*timed, "--compression", "c.safetensors", "full.safetensors") == 0
    assert "full_on-c" in capsys.readouterr().err
    assert run_(*timed, "--compression", "full.safetensors", "full.safetensors") == 2
    assert "is not a compression" in capsys.readouterr().err
    assert run_("compress", "efficientdn", "-o", "x") == 2
    assert "unknown compression 'efficientdn'; did you mean 'efficientdm'?" in capsys.readouterr().err


def test_plan_and_guidance_are_of_the_model(tmp_path):
    """A compressed backbone under guidance: the halves are quantised alike."""
    own = made(tmp_path, "w8a8").apply(load_backbone(get_model("pocket-dit")))
    guided = Guided(own, torch.tensor([1, 1]), 1.3, 3)
    x = torch.randn(1, *own.latent_shape).expand(2, -1, -1, -1)
    out = guided(x, 500, Plain(own))
    assert torch.allclose(out[0], out[1], atol=1e-5)


def test_a_plan_of_a_compressed_model_without_it(tmp_path, capsys):
    p = half_reused(Protocol("pocket-dit", "ddim", 2, 1.3))
    notes = {"compression": {"method": "efficientdm", "settings": {}, "checksum": "0"}}
    p.with_origin(notes=notes).save(tmp_path / "p.safetensors")
    assert main(["sample", str(tmp_path / "p.safetensors"), "--images", "1", "-o", str(tmp_path / "s")]) == 0
    assert "was made for the model under efficientdm, and runs on the model itself" in capsys.readouterr().err
