"""Compiled branches: one graph per kind of branch (attention, cross-attention, MLP), for all blocks and all plans.

The weights of a branch are inputs of its graph. What is computed, cached or reused stays in the loop over branches,
so nothing is compiled again for another plan: this is for running many plans, or one plan a few times. `Compiled`
takes a graph per kind of step, many times as long to compile, and is faster after that.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from harmonica.backbones import dit, pixart
from harmonica.backbones.base import Backbone
from harmonica.backbones.layers import add
from harmonica.execution import Planned, Policy, StepPolicy
from harmonica.execution.policy import PlannedStep
from harmonica.plan import COMPUTE, Plan
from harmonica.runtimes import onednn
from harmonica.utils import UserError


class CompiledBranches:
    """The branches of a backbone, compiled by torch.compile; `policy` runs any plan with them.

    Outputs differ from those of `Planned` by rounding. A graph is compiled when a kind of branch is first computed for
    a shape of the stream. Weights may change afterwards, also in place: graphs hold no copy.

    `options` go to torch.compile. Without any, on a CPU float32 products are oneDNN's, see `onednn`. Raises UserError
    for a backbone whose context is not known here, and what torch.compile raises if a branch is not one graph.
    """

    def __init__(self, backbone: Backbone, **options):
        self.backbone = backbone
        if not options and backbone.device.type == "cpu" and torch.backends.mkldnn.is_available():
            options = {"backend": onednn.compiled}
        self._options = {"fullgraph": True, "dynamic": False} | options
        self._blocks = [_only(backbone, block) for block in range(len(backbone.layout.blocks))]
        self._of = [(n, i) for n, (start, stop) in enumerate(backbone.layout.blocks) for i in range(stop - start)]
        self._compiled: dict[tuple, Callable] = {}  # by kind and memory layout of the stream

    def policy(self, plan: Plan) -> Policy:
        """The policy of a trajectory under a plan, for `Run` or `run`. Raises UserError if the plan does not fit."""
        return _Planned(self, plan)

    def __call__(self, i: int, x: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
        """Output of branch `i` before its gate, and the stream after it, both (B, N, D), for the stream x (B, N, D)."""
        block, at = self._of[i]
        key = (at, x.shape, x.stride(), x.dtype, x.is_inference())
        if key not in self._compiled:
            self._compiled[key] = self._compile(at)
        return self._compiled[key](self._blocks[block], x, _context(ctx, block, len(self._blocks)))

    def _compile(self, at: int) -> Callable:
        def branch(block, x, ctx):
            delta = block.delta(at, x, ctx)
            return delta, add(x, delta, block.gate(at, ctx))

        # graphs are stored with the code object of a function, at most eight: each kind has its own
        own = FunctionType(branch.__code__.replace(), branch.__globals__, branch.__name__, None, branch.__closure__)
        return torch.compile(own, **self._options)


class _Planned(Planned):
    def __init__(self, branches: CompiledBranches, plan: Plan):
        super().__init__(branches.backbone, plan)
        self.branches = branches

    def at(self, s: int) -> StepPolicy:
        return _Step(self.branches, self.cache.start(s), self.runs[s], self.cache)

    def group(self, s: int) -> range:
        """Steps are never batched together here: another batch would be another graph."""
        return range(s, s + 1)


class _Step(PlannedStep):
    def __init__(self, branches: CompiledBranches, *more):
        super().__init__(branches.backbone, *more)
        self.branches = branches

    def __call__(self, i, x, ctx):
        op = self.ops[i]
        if op.action != COMPUTE:
            return super().__call__(i, x, ctx)
        self.cache.open(op, x)
        delta, x = self.branches(i, x, ctx)
        self.cache.keep(op, delta)
        self.cache.close(op, x)
        return x, op.stop


def _only(backbone: Backbone, block: int) -> Backbone:
    """A view of a backbone with this block as its only one, so that branches of a kind differ in weights alone."""
    view, blocks = copy.copy(backbone), len(backbone.layout.blocks)
    view._parameters, view._buffers, view._modules = {}, {}, {}
    for name, module in backbone.named_children():
        if isinstance(module, nn.ModuleList) and len(module) % blocks == 0:
            each = len(module) // blocks  # one per block, or one per branch
            view._modules[name] = module[block * each : (block + 1) * each]
    if isinstance(held := vars(backbone).get("blocks"), list):  # of a U-ViT
        vars(view)["blocks"] = [held[block]]
    return view


def _context(ctx: Any, block: int, blocks: int) -> Any:
    """The context of that view: what each branch or block has of its own, of this block alone."""
    match ctx:
        case None:
            return None
        case dit.Context(gates=gates):
            each = len(gates) // blocks
            return replace(ctx, gates=gates[block * each : (block + 1) * each])
        case pixart.Context(modulation=modulation, text=text):
            text = replace(text, keys_values=text.keys_values[block : block + 1])
            return replace(ctx, modulation=modulation[block : block + 1], text=text)
    raise UserError(f"branches with a {type(ctx).__qualname__} of {type(ctx).__module__} cannot be compiled by kind")
