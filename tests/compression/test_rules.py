"""The rules of the published methods, one by one."""

import pytest
import torch
from scipy.stats import spearmanr

from baselines.compressions._reconstruction import reconstruct
from baselines.compressions.diff_pruning import DiffPruning, Images, total
from baselines.compressions.efficientdm import EfficientDM, Student
from baselines.compressions.ptq4dit import PTQ4DiT
from harmonica.compression import CompressionTask
from harmonica.compression.balance import balance_of, balanced, fold, spearman
from harmonica.compression.calibration import ROWS, inputs_of, trajectory
from harmonica.compression.learning import LoRALinear
from harmonica.compression.linear import Clock, QuantLinear
from harmonica.compression.numerics import fake, from_grid, min_max, of_range, to_grid
from harmonica.compression.places import layers
from harmonica.execution import Batch, run
from harmonica.models import MODELS, get_model
from harmonica.models.loading import load_backbone
from harmonica.plan import Origin, Protocol, all_compute
from harmonica.samplers.schedules import get_schedule

POCKET = [n for n, m in MODELS.items() if m.scale == "pocket"]


def task(model: str = "pocket-dit", steps: int = 2) -> CompressionTask:
    about = get_model(model)
    return CompressionTask(Protocol(model, about.sampler, steps, about.cfg), Origin("test"))


def learning(rank: int = 3, steps: int = 2, bits: int = 4):
    torch.manual_seed(0)
    own, at = torch.nn.Linear(12, 8), [0]
    start = (torch.tensor(0.03), torch.tensor(0.0))
    return LoRALinear(own, bits, 8, rank, steps, start, lambda: at[0], torch.Generator().manual_seed(0)), own, at


def test_adapters_begin_without_effect_and_vanish_in_the_integers():
    """QALoRA: Q(W_q + BA) is one matrix of integers."""
    layer, own, _ = learning()
    scale, zero = min_max(own.weight.detach(), 4)
    assert torch.equal(layer.merged()["integers"].float(), to_grid(own.weight.detach(), scale, zero, 4))
    layer.up.data.normal_()
    merged = layer.merged()
    assert set(merged) == {"integers", "weight_scale", "weight_zero", "act_scale", "act_zero"}
    assert torch.equal(merged["integers"].float(), to_grid(layer.adapted().detach(), scale, zero, 4))
    assert len(merged["act_scale"]) == len(merged["act_zero"]) == 2


def test_an_update_of_less_than_half_a_step_changes_no_integer():
    """The base is on the grid, so that only larger updates pass."""
    layer, _, _ = learning()
    before = layer.merged()["integers"]
    assert torch.allclose(layer.base, from_grid(before.float(), layer.weight_scale, layer.weight_zero))
    with torch.no_grad():
        step = 0.45 * float(layer.weight_scale.min())
        layer.up.zero_()[:, 0] = step
        layer.down.zero_()[0] = 1.0
        assert torch.equal(layer.merged()["integers"], before)
        layer.down[0] = 2.0 * float(layer.weight_scale.max() / layer.weight_scale.min())
        assert not torch.equal(layer.merged()["integers"], before)


def test_a_step_learns_its_own_scale_only():
    """TALSQ: scales begin equal, and an update at one step leaves the others."""
    layer, _, at = learning()
    optimiser = torch.optim.AdamW(layer.parameters(), 1e-3)
    for at[0] in (0, 1, 1):
        optimiser.zero_grad(set_to_none=True)
        layer(3 * torch.randn(5, 12)).square().sum().backward()
        assert (layer.act_scale[1 - at[0]].grad is None) and layer.act_scale[at[0]].grad.abs() > 0
        optimiser.step()
    assert float(layer.act_scale[0]) != float(layer.act_scale[1])


def test_learning_rates_follow_the_weight_scales():
    """One group a layer; the head and the time embedding have 8 bits and nothing to learn."""
    student = Student(EfficientDM(weight_bits=4), task(), 2, torch.Generator().manual_seed(0))
    groups = student.groups(1 / 2500)
    rates = {g["lr"] for g in groups if any(p.dim() == 2 and p.shape[0] == 2 for p in g["params"])}
    scales = {float(layer.weight_scale.mean()) / 2500 for layer in student.learning.values()}
    assert {round(r, 12) for r in rates} == {round(s, 12) for s in scales}
    assert {"time_in", "time_out", "out"} <= set(student.fixed) and not {"time_in", "out"} & set(student.learning)
    about = student.described
    assert about["out"].weight_bits == 8 and about["out"].scales == "static" and about["up.0"].weight_bits == 4
    assert about["up.0"].scales == about["modulation.0"].scales == "step" and about["to_gates"].scales == ""
    assert len(student.learning["up.0"].act_scale) == 2


def test_the_trajectory_goes_on_with_the_teachers_output():
    t = task(steps=3)
    steps = list(trajectory(t, 2, torch.Generator().manual_seed(0)))
    assert [s.s for s in steps] == [0, 1, 2] and [s.t for s in steps] == list(t.sampler.timesteps)
    following = t.sampler.step(0, steps[0].output, t.sampler.begin(steps[0].latents), None)
    assert torch.allclose(t.sampler.latents(following), steps[1].latents)


def test_distillation_lowers_the_distance_to_the_teacher(tmp_path):
    """On four bits, of seeds that were not trained on."""
    about, p = get_model("pocket-dit"), Protocol("pocket-dit", "ddim", 4, 1.3)
    full = load_backbone(about)
    plan, batch = all_compute(p, len(about.layout.branches)), Batch.of(full, 7, 0, 8)
    errors = []
    for trajectories in (1, 5):
        made = EfficientDM(weight_bits=4, trajectories=trajectories, batch=2).make(
            CompressionTask(p, Origin("efficientdm"))
        )
        own = made.save(tmp_path / f"{trajectories}.safetensors").apply(load_backbone(about))
        errors.append(float((run(own, plan, batch) - run(full, plan, batch)).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_spearman_is_scipys():
    torch.manual_seed(0)
    x, y = torch.rand(3, 20), torch.rand(20)
    expected = [spearmanr(row, y).statistic for row in x.numpy()]
    assert spearman(x, y).tolist() == pytest.approx(expected, abs=1e-5)


def test_balance_evens_out_salience_and_prefers_complementary_samples():
    weight = torch.ones(5, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    same, opposite = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([4.0, 3.0, 2.0, 1.0])
    alone = balance_of(opposite[None], weight)
    assert torch.allclose(alone, (opposite / same).sqrt())
    assert torch.allclose(opposite / alone, same * alone)  # afterwards both have the same salience
    both = balance_of(torch.stack([same, opposite]), weight)
    shares = torch.softmax(torch.tensor([-1.0, 1.0]), 0)  # −ρ
    assert torch.allclose(both, ((shares[0] * same + shares[1] * opposite) / same).sqrt())
    assert torch.equal(balance_of(torch.zeros(1, 4), weight), torch.ones(4))  # a dead channel is left alone


@pytest.mark.parametrize("name", POCKET)
def test_folding_changes_no_output(name):
    """What is divided in one place is multiplied in another; where nothing can take the factors, `fold` says so."""
    about = get_model(name)
    full, own = load_backbone(about), load_backbone(about)
    torch.manual_seed(0)
    for layer, module, _ in list(layers(own)):
        if balanced(layer):
            factors = torch.rand(module.weight.shape[1]) + 0.5
            if not fold(own, layer, factors):
                assert name == "pocket-pixart" and not layer.startswith("proj")
                module.weight.div_(factors)  # undone
    plan, batch = (
        all_compute(Protocol(name, about.sampler, 2, about.cfg), len(about.layout.branches)),
        Batch.of(full, 0, 0, 2),
    )
    assert torch.allclose(run(full, plan, batch), run(own, plan, batch), atol=2e-4)
    changed = [k for k, v in full.state_dict().items() if not torch.equal(v, own.state_dict()[k])]
    assert any("qkv" in k for k in changed)


def test_balancing_helps_where_few_channels_are_large():
    """What it is for: one scale for all channels of an input at 4 bits, the weight's rows at 8."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(256, 64, generator=g), torch.randn(32, 64, generator=g)
    x[:, :4] *= 30

    def error(factor: torch.Tensor) -> float:
        inputs, rows = x / factor, weight * factor
        low_high = of_range(inputs.min(), inputs.max(), 4)
        out = fake(inputs, *low_high, 4) @ fake(rows, *min_max(rows, 8), 8).T
        return float((out - x @ weight.T).square().mean())

    assert error(balance_of(x.abs().amax(0, keepdim=True), weight)) < 0.9 * error(torch.ones(64))


def test_reconstruction_lowers_the_error_of_blocks(tmp_path):
    made = PTQ4DiT(weight_bits=3, samples=4, reconstruction=8).make(task(steps=2))
    found = made.origin.notes["reconstruction_error"]
    assert found["after"] < found["before"] and reconstruct
    nearest = PTQ4DiT(weight_bits=3, samples=4).make(task(steps=2))
    moved = (made.tensors["up.0.integers"].int() - nearest.tensors["up.0.integers"].int()).abs()
    assert 0 < int(moved.max()) <= 1  # up or down, never further


def test_inputs_are_sampled_by_layer():
    t = task(steps=2)
    found = inputs_of(t, {"up.0": t.backbone.up[0], "modulation.0": t.backbone.modulation[0]}, 1, 3)
    assert found.rows["up.0"][0].shape == (ROWS, 128) and found.largest["up.0"][0].shape == (6, 128)
    assert found.rows["modulation.0"][0].shape == (6, 128) and len(found.rows["up.0"]) == 2


@pytest.mark.parametrize("step", [0, 1])
def test_a_learned_layer_is_what_runs(step):
    """What was trained, in floats, gives what the merged integers give."""
    layer, own, at = learning(bits=8)
    at[0] = step
    with torch.no_grad():
        layer.up.normal_(std=0.05)
        for scale in layer.act_scale:
            scale.mul_(1 + step)
        x = torch.randn(20, 12) * 0.5
        clock = Clock(torch.tensor([999.0, 0.0]))
        clock.set([999.0, 0.0][step])
        real = QuantLinear(layer.merged() | {"bias": own.bias.detach()}, 8, clock)
        torch.testing.assert_close(layer(x), real(x), rtol=1e-4, atol=1e-4)


class OneWeight:
    """Images and losses of a model of one weight, for the rules of the training: `losses` (t) is its loss."""

    def __init__(self, losses):
        self.of, self.steps = losses, []

    def draw(self, count, dropout):
        return torch.zeros(count, 1), torch.zeros(count, dtype=torch.long)

    def noise(self, count):
        return torch.zeros(count, 1)

    g = torch.Generator()

    def losses(self, model, x0, labels, noise, t, part):
        if torch.is_grad_enabled():
            self.steps.append(int(t[0]))
        yield model.weight.sum() * self.of(int(t[0]))


def one_weight() -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    return model


def test_the_walk_ends_below_a_share_of_the_largest_loss():
    """Losses rise to 1, then fall: .3 and .06 pass a threshold of .05, .04 does not, and nothing comes after it."""
    known, model = {0: 0.5, 10: 1.0, 20: 0.3, 30: 0.06, 40: 0.04, 50: 9.0}, one_weight()
    data = OneWeight(known.get)
    DiffPruning(threshold=0.05)._accumulate(task(), model, data, 4, 4)
    assert data.steps == [0, 10, 20, 30] and float(model.weight.grad) == pytest.approx(0.5 + 1 + 0.3 + 0.06)


def test_a_pruned_model_gets_the_average_of_its_weights():
    """With AdamW and a constant gradient a weight falls by the rate at every update."""
    model, lr, updates = one_weight(), 0.01, 40
    DiffPruning(lr=lr)._train(task(), model, OneWeight(lambda t: 1.0), updates, 4, 4)
    weight = average = 1.0
    for _ in range(updates):
        weight -= lr
        average += 10 / updates * (weight - average)
    assert float(model.weight) == pytest.approx(average, abs=1e-5) and average > weight + 2 * lr


@pytest.mark.parametrize("part", [1, 3, 8])
def test_gradients_of_parts_are_those_of_the_batch(part):
    """Where a batch does not fit into memory its parts come one after the other."""
    about, data = task(), Images.__new__(Images)
    schedule = get_schedule("linear")
    vars(data).update(schedule=schedule, bar=torch.from_numpy(schedule.alpha_bar).float())
    model, g = about.backbone.requires_grad_(True), torch.Generator().manual_seed(0)
    given = [torch.randn(8, *model.latent_shape, generator=g) for _ in range(2)]
    given = given[0], torch.arange(8) % 10, given[1], torch.arange(8) * 100
    found = []
    for size in (8, part):
        model.zero_grad()
        loss = total(data.losses(model, *given, size), backward=True)
        found.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 50
    for whole, by_parts in zip(*found, strict=True):
        torch.testing.assert_close(by_parts, whole, rtol=1e-4, atol=1e-6)
