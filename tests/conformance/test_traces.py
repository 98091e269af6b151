"""The published implementations, recorded on a small DiT, are the judge of everything that has to be exact."""

import json
from pathlib import Path

import pytest
import torch
from conftest import sample
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from harmonica.backbones.dit import DiT
from harmonica.checks.replay import Trace, check, replay
from harmonica.cli import main
from harmonica.execution import Guided, Plain, Planned
from harmonica.models.convert import diffusers_to_original, original_config, original_to_diffusers
from harmonica.plan import Protocol, Router
from harmonica.samplers.ddim import DDIM
from harmonica.training import iepo
from harmonica.training.learning_to_cache import pair, routed_steps
from harmonica.training.logits import Logits, Part
from harmonica.training.sdt import trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name, quantities", [("harmonica_dit_T10", 29), ("ltc_dit_T10", 8)])
def test_published_traces(name, quantities):
    """Forward pass, sampling, λ, losses, trained logits and images: each as recorded, epoch for epoch."""
    checks = list(replay(DATA / f"{name}.safetensors"))
    assert len(checks) == quantities
    assert [c for c in checks if not c.passed] == []
    assert any(c.error > 0 for c in checks)


def test_clean_start_differs():
    """The 0.67 % of stale features at the noisiest step are in the record: without them it is not matched."""
    t = Trace(DATA / "harmonica_dit_T10.safetensors")
    logits = Logits(t.rows("train.router_init"), range(1, 10), t.lr)
    start = Start(t.guided(t["train.labels_0"]), t["train.noise_0"])
    weights = torch.cat([torch.zeros(1), t.rows("train.lambda_0")])
    softs = [Soft(t.backbone)]
    _, losses = trajectory([start], t.sampler, logits, softs, weights, t.beta, t.threshold, stale=False)
    recorded = t["train.losses"][t["train.losses"][:, 0] == 0][:, 2]
    assert not check("data", "losses", [float(loss.data) for loss in losses], recorded).passed


def altered(tmp_path, name, key, change):
    """The path of a trace in which `change` was applied to one tensor."""
    from safetensors import safe_open

    with safe_open(DATA / f"{name}.safetensors", "pt") as f:
        metadata = f.metadata()
    tensors = load_file(DATA / f"{name}.safetensors")
    tensors[key] = change(tensors[key].clone())
    path = tmp_path / "altered.safetensors"
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    "key, change",
    [
        ("ddim_cached", lambda x: x + 3e-4),
        ("train.t_2", lambda x: 8 - x),
        ("train.router_after", lambda x: x + 2e-3),
    ],
)
def test_a_difference_is_found(tmp_path, capsys, key, change):
    path = altered(tmp_path, "ltc_dit_T10", key, change)
    status = main(["replay", str(path)])
    assert status in (1, 2)
    if status == 1:
        assert "OVER" in capsys.readouterr().out


@pytest.mark.parametrize("key, factor", [("lambda_random_router", 1.002), ("train.losses", [1, 1, 1.002, 1, 1, 1])])
def test_a_small_relative_difference_is_found(tmp_path, key, factor):
    path = altered(tmp_path, "harmonica_dit_T10", key, lambda x: x * torch.tensor(factor))
    assert main(["replay", str(path)]) == 1


def test_foreign_files_are_refused(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes((DATA / "ltc_dit_T10.safetensors").read_bytes()[:100_000])
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("cut", "other", "missing"):
        assert main(["replay", str(tmp_path / f"{name}.safetensors")]) == 2
        err = capsys.readouterr().err
        assert "is not a reference trace" in err and err.count("\n") == 1


def synthetic(path, ltc: bool, steps=7, cfg=3.0, depth=2, width=48, heads=3, classes=5, epochs=2, tau=0.4):
    """A trace of another shape, by this suite's own parts: it shows which shapes are read, not that they are right."""
    torch.manual_seed(steps)
    config = dict(num_attention_heads=heads, attention_head_dim=width // heads, num_layers=depth, in_channels=4,
                  out_channels=8, sample_size=8, patch_size=2, num_embeds_ada_norm=classes, norm_eps=1e-6)  # fmt: skip
    state = DiTTransformer2DModel(**config).state_dict()
    for k in list(state):  # one embedder for all blocks
        if ".norm1.emb." in k:
            state[k] = state["transformer_blocks.0.norm1.emb." + k.split(".norm1.emb.")[1]]
    state["pos_embed.pos_embed"] = torch.randn(1, 16, width)
    weights = diffusers_to_original(state)
    backbone = DiT(original_config(weights, heads), "x", original=True).load_weights(original_to_diffusers(weights))
    sampler, n, batch, beta, lr = DDIM(steps), 3, 2, 1e-3, 0.05
    z, labels = torch.randn(n, 4, 8, 8), torch.randint(classes, (n,))
    init = torch.randn(steps, 2 * depth)
    guided = Guided(backbone, labels, cfg, 3)
    routed = routed_steps(steps) if ltc else range(1, steps)
    rows = Logits(init, routed, lr).numpy()
    plan = Router(rows, Protocol("x", "ddim", steps, cfg)).plan(tau)
    assert plan.cur > 0
    both = Guided(backbone, torch.cat([labels, torch.full((n,), classes)]), 1.0, 3)
    with torch.no_grad():
        single = both(torch.cat([z, z]), 500, Plain(backbone))
    out = {f"weights.{k}": v.contiguous() for k, v in weights.items()} | {
        "z": z, "labels": labels, "timestep_map": torch.tensor(sorted(sampler.timesteps)),
        "single_forward_t500": single, "ddim_uncached": sample(guided, sampler, Plain(backbone), z),
        "ddim_cached": sample(guided, sampler, Planned(backbone, plan), z), "router_logits": init.flip(0),
        "train.router_init": init.flip(0),
    }  # fmt: skip
    logits, losses = Logits(init, routed, lr), []
    if ltc:
        for k in range(epochs):
            s = routed[k]
            x, y, noise = torch.randn(batch, 4, 8, 8), torch.randint(classes, (batch,)), torch.randn(batch, 4, 8, 8)
            out |= {f"train.x_{k}": x, f"train.y_{k}": y, f"train.noise_{k}": noise}
            out[f"train.t_{k}"] = torch.full((batch,), steps - s)
            teacher, student = pair(backbone, sampler, logits, s, x, y, noise)
            loss = logits.descend([s], [Part.of(1.0, teacher, student)], 1.0, beta)
            losses.append([k, steps - 1 - s, *map(float, loss)])
        out["train.router_after"] = torch.from_numpy(logits.numpy()).flip(0)
    else:
        soft = Soft(backbone)
        out["lambda_random_router"] = iepo.official(guided, sampler, Logits(init, routed, lr), soft, tau, z)[1:].flip(0)
        for e in range(epochs):
            noise, y = torch.randn(batch, 4, 8, 8), torch.randint(classes, (batch,))
            soft.cache.clear()
            model = Guided(backbone, y, cfg, 3)
            lam = iepo.official(model, sampler, logits, soft, tau, noise)
            (x0,), found = trajectory([Start(model, noise)], sampler, logits, [soft], lam, beta, tau)
            losses += [[e, steps - 1 - s, float(v.data), float(lam[s]), float(v.ratios), float(v.total)]
                       for s, v in enumerate(found, 1)]  # fmt: skip
            out |= {f"train.noise_{e}": noise, f"train.labels_{e}": y, f"train.lambda_{e}": lam[1:].flip(0)}
            out |= {f"train.x0_{e}": x0, f"train.router_after_{e}": torch.from_numpy(logits.numpy()).flip(0)}
    out["train.losses"] = torch.tensor(losses)
    settings = {"heads": heads, "steps": steps, "cfg": cfg, "thres": tau, "epochs": epochs, "l1": beta, "lr": lr}
    save_file({k: v.contiguous() for k, v in out.items()}, path, {"config": json.dumps(settings)})


@pytest.mark.parametrize("ltc", [False, True])
@pytest.mark.parametrize("changes", [{}, {"steps": 12, "cfg": 1.0, "depth": 3, "epochs": 1, "tau": 0.6}])
def test_other_shapes(tmp_path, ltc, changes):
    synthetic(tmp_path / "t.safetensors", ltc, **changes)
    assert [c for c in replay(tmp_path / "t.safetensors") if not c.passed] == []


@pytest.mark.parametrize("name", ["harmonica_dit_T10", "ltc_dit_T10"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_published_traces_in_half_precision(name, precision):
    """Within the wider tolerances of the precision, which it is told to have: the forward pass is outside float32's."""
    checks = list(replay(DATA / f"{name}.safetensors", precision))
    assert [c for c in checks if not c.passed] == []
    forward = next(c for c in checks if c.quantity.startswith("single_forward"))
    assert 1e-4 < forward.error < forward.tolerance


def test_lambda_of_half_precision_is_noise():
    """Why λ is measured in float32: what a step changes is less than what a bfloat16 trajectory loses by rounding."""
    t = Trace(DATA / "harmonica_dit_T10.safetensors", "bfloat16")
    logits = Logits(t.rows("router_logits"), range(1, t.steps), t.lr)
    own = iepo.official(t.guided(t["labels"]), t.sampler, logits, Soft(t.backbone), t.threshold, t["z"])
    assert check("λ", "lambda", own[1:], t.rows("lambda_random_router")).error > 5
