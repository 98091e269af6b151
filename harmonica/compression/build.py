"""A compression put into a backbone: fewer units, integers in place of weights, the clock of per-step scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harmonica.backbones.base import Backbone
from harmonica.compression.assemble import weight_of
from harmonica.compression.file import Compression
from harmonica.compression.linear import Clock, Float8Linear, QuantLinear
from harmonica.compression.places import replace
from harmonica.utils import UserError


class Clocked(Backbone):
    """A backbone whose layers have scales per step: an evaluation begins by telling which step it is, from its time."""

    clock: Clock

    def embed(self, latents, t, condition):
        self.clock.set(t)
        return super().embed(latents, t, condition)

    def head_context(self, latents, t, condition):
        self.clock.set(t)
        return super().head_context(latents, t, condition)


def build(compression: Compression, backbone: Backbone) -> Backbone:
    """The compressed backbone, in the precision and on the device of the one given, which it takes over: that is
    changed, and of no other use. Raises UserError if they do not fit."""
    tensors = {k: v.to(backbone.device) for k, v in compression.tensors.items()}
    dtype, name = backbone.dtype, compression.protocol.model
    clock = None
    if compression.timesteps:
        clock = Clock(torch.tensor(compression.timesteps, dtype=torch.float32, device=backbone.device))
    try:
        if compression.kept:
            _prune(backbone, compression.kept, tensors)
        for layer, about in compression.layers.items():
            own = {k: tensors.pop(f"{layer}.{k}") for k in _PARTS if f"{layer}.{k}" in tensors}
            if about.scales in ("", "float8"):  # a product of floats, as the backbone makes it
                tensors[f"{layer}.weight"] = weight_of(own).view(backbone.get_parameter(f"{layer}.weight").shape)
                continue
            if f"{layer}.bias" in tensors:
                own["bias"] = tensors.pop(f"{layer}.bias").to(dtype)
            if own["integers"].shape != backbone.get_parameter(f"{layer}.weight").shape:
                raise RuntimeError(f"{layer} has another shape")
            quantised = QuantLinear(own, about.act_bits, clock if about.scales == "step" else None)
            replace(backbone, layer, quantised)
        rest = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items() if not k.startswith("kept.")}
        missing, stray = backbone.load_state_dict(rest, strict=False, assign=True)
        own_parts = {f"{layer}.{k}" for layer in compression.layers for k in (*_PARTS, "bias")}
        missing = [k for k in missing if k not in own_parts]
        if missing or stray:
            raise RuntimeError(f"{(missing or stray)[0]} is {'missing' if missing else 'unknown'}")
    except (RuntimeError, AttributeError, KeyError) as e:
        raise UserError(
            f"the compression was made for {name}, and does not fit {backbone.layout.name} ({str(e).splitlines()[0]})"
        ) from None
    backbone.layout = compression.layout_of(backbone.layout)
    if clock is not None:
        own_class = type(backbone)
        backbone.__class__ = type(own_class.__name__, (Clocked, own_class), {})
        vars(backbone)["clock"] = clock
    float8 = [k for k, v in compression.layers.items() if v.scales == "float8"]
    if float8:
        _into_float8(backbone, float8)
    return backbone.eval().requires_grad_(False)


_PARTS = ("integers", "weight_scale", "weight_zero", "act_scale", "act_zero", "balance")


def _prune(backbone: Backbone, kept: dict[str, int], tensors: dict[str, Tensor]) -> None:
    """Make room for the weights of fewer heads and hidden channels."""
    for name, module in list(backbone.named_modules()):
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Linear) and weight is not None and weight.shape != module.weight.shape:
            with torch.device("meta"):  # the weights are taken over
                small = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
            replace(backbone, name, small)
    for module in backbone.modules():
        if isinstance(getattr(module, "heads", None), int):
            vars(module)["heads"] = kept["heads"]


def _into_float8(backbone: Backbone, names: list[str]) -> None:
    """Layers by torchao's float8 tensors, with scales of each row. Raises UserError without a GPU that has them."""
    require_float8()
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    for name in names:
        linear = backbone.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        replace(backbone, name, Float8Linear(linear))
    products = {f"{name}.product" for name in names}
    # `set_inductor_config` would change global settings, for every later row
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(backbone, config, filter_fn=lambda module, name: name in products)


def require_float8() -> None:
    """Raise UserError without a GPU that multiplies float8: products of a CPU would be emulated."""
    from harmonica.utils.devices import default_device

    if default_device().type != "cuda" or torch.cuda.get_device_capability() < (8, 9):
        raise UserError("fp8 needs a GPU with float8 products (compute capability 8.9 or above); use w8a8 on others")
