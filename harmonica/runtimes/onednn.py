"""oneDNN's products in code that torch.compile generates for a CPU, with weights as inputs.

Inductor takes oneDNN only for weights that are constants of a graph, else MKL, which is slower on AMD's processors. It
calls an operator that it does not know as it is. oneDNN then reorders the weight at every product, which takes a small
part of the time of a product with many rows; products with few keep MKL.
"""

from typing import Any

import torch
from torch import Tensor, fx

_LIBRARY = torch.library.Library("harmonica", "FRAGMENT")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias, str after, str form) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, after: str, form: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, after, [], form)


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None, after: str, form: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


_LIBRARY.impl("linear", _linear, "CPU")
_LIBRARY.impl("linear", _shape, "Meta")


def compiled(graph: fx.GraphModule, inputs: list) -> Any:
    """A backend of torch.compile: Inductor, with float32 products of a stream (B, N, D), and a GELU after one, by
    oneDNN."""
    from torch._inductor.compile_fx import compile_fx

    for node in graph.graph.find_nodes(op="call_function", target=torch._C._nn.linear):
        product = node.meta["example_value"]
        if product.dim() == 3 and product.dtype == torch.float32:
            _replace(node)
    graph.recompile()
    return compile_fx(graph, inputs)


def _replace(node: fx.Node) -> None:
    (x, weight, bias), users = (*node.args, None)[:3], list(node.users)
    gelu = users[0] if len(users) == 1 and users[0].target is torch._C._nn.gelu else None
    after = ("gelu", gelu.kwargs.get("approximate", "none")) if gelu else ("none", "")
    with node.graph.inserting_after(node):
        new = node.graph.call_function(torch.ops.harmonica.linear.default, (x, weight, bias, *after))
    (gelu or node).replace_all_uses_with(new)
    for old in (gelu, node):
        if old:
            node.graph.erase_node(old)
