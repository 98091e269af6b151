"""Grids of integers, the layer on them, and the traps of integer products, on a CPU."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harmonica.compression import linear
from harmonica.compression.assemble import integers_of, static_layer
from harmonica.compression.linear import Clock, QuantLinear
from harmonica.compression.numerics import best_range, bounds, fake, from_grid, min_max, of_range, pack, to_grid, unpack


def sqnr(signal: torch.Tensor, other: torch.Tensor) -> float:
    """Signal to quantisation noise, dB."""
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


def layer(outputs: int = 24, inputs: int = 16, weight_bits: int = 8, act_bits: int = 8, steps: int = 1, clock=None):
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs) + 0.3, torch.randn(outputs)
    own = integers_of(weight, *min_max(weight, weight_bits), weight_bits) | {"bias": bias}
    scale, zero = of_range(torch.tensor(-2.0), torch.tensor(3.0), act_bits)
    own |= {"act_scale": scale * torch.arange(1, steps + 1), "act_zero": zero.expand(steps).clone() + 0.25}
    return QuantLinear(own, act_bits, clock), weight, bias


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 100))
def test_two_integers_in_a_byte(rows, columns, seed):
    x = torch.randint(-8, 8, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    assert torch.equal(unpack(pack(x), columns), x) and pack(x).nbytes == rows * -(-columns // 2)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_spans_its_range_and_has_zero(bits):
    scale, zero = of_range(torch.tensor(-1.0), torch.tensor(3.0), bits)
    ends = from_grid(torch.tensor(bounds(bits)).float(), scale, zero)
    assert ends[0] == pytest.approx(-1, abs=float(scale)) and ends[1] == pytest.approx(3, abs=float(scale))
    assert float(from_grid(to_grid(torch.zeros(()), scale, zero, bits), scale, zero)) == 0


def test_a_shrunken_range_is_chosen_for_outliers():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(5000), torch.tensor([8.0])])  # one outlier in thousands
    wide, (best, zero) = min_max(x[None], 4), best_range(x, 4)
    assert float(best) < float(wide[0])
    error = [(fake(x, s, z, 4) - x).abs().pow(2.4).mean() for s, z in (wide, (best, zero))]
    assert error[1] < error[0]


def test_gradients_pass_rounding_and_scales_learn_from_clipping():
    x = torch.tensor([-3.0, 0.26, 5.0], requires_grad=True)
    scale, zero = torch.tensor(0.1, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    fake(x, scale, zero, 4).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]  # clipped values have no gradient
    # the clipped ends move with the scale; inside, it is the rounding error in units of the scale
    assert float(scale.grad) == pytest.approx(-8 + 7 + (3 - 2.6), abs=1e-5)
    assert float(zero.grad) == pytest.approx(-0.2, abs=1e-6)


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(8, 8), (4, 8), (4, 4)])
def test_fake_and_real_agree(weight_bits, act_bits):
    """The product of integers is that of the floats that they stand for."""
    own, weight, bias = layer(weight_bits=weight_bits, act_bits=act_bits)
    x = torch.randn(2, 5, 16)
    fake_weight = fake(weight, *min_max(weight, weight_bits), weight_bits)
    fake_input = fake(x, own.act_scale, own.act_zero, act_bits)
    expected = torch.nn.functional.linear(fake_input, fake_weight, bias)
    assert sqnr(expected, own(x)) > 100
    assert 12 < sqnr(torch.nn.functional.linear(x, weight, bias), own(x)) < 60


def test_the_dynamic_layer_is_torchaos():
    """Integers, scales and output are those of torchao's own layer; global settings stay as they were."""
    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    own, x = torch.nn.Linear(32, 48), torch.randn(4, 7, 32)
    before = torch._inductor.config.save_config_portable()
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantization.quantize_(own, config)
    assert torch._inductor.config.save_config_portable() == before
    tensors = {"integers": own.weight.qdata, "weight_scale": own.weight.scale.flatten(), "bias": own.bias.detach()}
    ours = QuantLinear(tensors, 8)
    with torch.no_grad():
        assert sqnr(own(x), ours(x)) > 100


def test_the_gradient_that_torchaos_layer_does_not_pass():
    """A router is trained through the branches: a layer without a gradient for its input would train it on noise."""
    own, weight, _ = layer()
    x = torch.rand(6, 16).requires_grad_()
    y = own(x)
    y.sum().backward()
    with torch.no_grad():
        assert torch.equal(y, own(x))  # the same output with and without gradients
    assert sqnr(weight.sum(0).expand(6, -1), x.grad) > 35
    far = torch.full((1, 16), 50.0, requires_grad=True)
    own(far).sum().backward()
    assert far.grad.abs().max() == 0  # clipped


def test_dividing_inputs_by_a_balance():
    own, weight, bias = layer()
    balance = torch.rand(16) + 0.5
    tensors = dict(own.named_buffers())
    tensors = {k: tensors[k] for k in ("integers", "weight_scale", "weight_zero", "act_scale", "act_zero")}
    divided = QuantLinear(tensors | {"bias": bias, "balance": balance}, 8)
    x = torch.rand(3, 16)
    assert sqnr(own(x / balance), divided(x)) > 100


def test_a_layer_takes_the_scales_of_its_step():
    """Also of several steps in one batch."""
    clock = Clock(torch.tensor([999.0, 500.0, 0.0]))
    own, _, _ = layer(steps=3, clock=clock)
    x = torch.randn(2, 5, 16)
    outputs = {}
    for t in (999, 500, 0):
        clock.set(float(t))
        outputs[t] = own(x)
        scale, zero = own.grid(x)
        assert scale.flatten().tolist() == own.act_scale[clock.index].tolist() and scale.shape == (1, 1, 1)
    assert not torch.equal(outputs[999], outputs[0])
    clock.set(torch.tensor([480.0, 20.0]))  # the nearest of those that were trained
    together = own(x)
    assert torch.allclose(together[0], outputs[500][0]) and torch.allclose(together[1], outputs[0][1])


def test_steps_of_different_scales_share_a_compiled_graph():
    """The index is data of the graph: a scale is not frozen into it."""
    clock = Clock(torch.tensor([999.0, 0.0]))
    own, _, _ = layer(steps=2, clock=clock)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(3, 4, 16)

    def step(x, t):
        clock.set(t)
        return own(x)

    compiled = torch.compile(step, backend=count, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for t in (999.0, 0.0):
            assert torch.allclose(compiled(x, torch.tensor([t])), step(x, torch.tensor([t])), atol=1e-5)
    assert len(graphs) == 1


def test_where_integer_kernels_are_not_used(monkeypatch):
    """Sixteen rows or sizes that 8 does not divide on a GPU; a CPU whose products of int8 saturate."""

    class OnGPU:
        def __init__(self, *shape):
            self.shape, self.is_cuda = shape, True

    takes = partial(linear.runs_as_integers, saturates=True)  # of a CPU
    assert not takes(16, OnGPU(64, 64)) and takes(17, OnGPU(64, 64))
    assert not takes(64, OnGPU(64, 36)) and not takes(64, OnGPU(36, 64))
    own, _, _ = layer()
    x = torch.randn(5, 16)
    expected = own(x)
    monkeypatch.setattr(torch, "_int_mm", lambda *a: pytest.fail("an integer kernel"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    careful, _, _ = layer()
    assert linear.saturates() and torch.allclose(careful(x), expected, atol=1e-5)


def test_whether_products_saturate_is_torchaos_answer():
    utils = pytest.importorskip("torchao.utils")
    assert linear.saturates() == utils.should_reduce_range(torch.device("cpu"))


def test_a_static_layer_of_eight_bits():
    torch.manual_seed(0)
    own, x = torch.nn.Linear(16, 8), torch.randn(100, 16)
    with torch.no_grad():
        assert sqnr(own(x), static_layer(own, x)(x)) > 30
