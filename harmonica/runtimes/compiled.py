"""Compiled plans. What a step does is known before the first one, so each step is a single graph without breaks, and
equal steps share one.

A learned plan has nearly as many kinds of steps as steps, and compiling each takes many times as long as running it:
this is for generating many batches with one plan. `compiled_branches` is for many plans.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from harmonica.backbones.base import Backbone
from harmonica.backbones.layers import on_device
from harmonica.execution import Planned, StepPolicy
from harmonica.execution.cache import Cache
from harmonica.execution.policy import PlannedStep
from harmonica.plan import Plan


class Compiled(Planned):
    """`Planned` with steps compiled by torch.compile; reuse one for all batches. Outputs differ from those of
    `Planned` by rounding. `cache.peak_bytes` is the memory between steps.

    `options` go to torch.compile. Without any, on a CPU the weights are packed for oneDNN's products, see `packed`:
    they must not change afterwards, and each kind of step keeps a copy of those it uses. Raises what torch.compile
    raises if a step is not one graph.
    """

    def __init__(self, backbone: Backbone, plan: Plan, **options):
        plan.check_fixed("compiled steps")
        super().__init__(backbone, plan)
        self._packs = not options and backbone.device.type == "cpu"
        self._options = {"fullgraph": True, "dynamic": False} | options
        # each step's operations and incoming long skips; `kinds` numbers the steps that are equal in both
        given = [frozenset(), *self.carried[:-1]]
        does = [(tuple(sorted(ops.items())), skips) for ops, skips in zip(plan.program, given, strict=True)]
        self.kinds = [does.index(kind) for kind in does]
        self._compiled: dict[tuple, Callable] = {}  # by kind and memory layout of the inputs

    def at(self, s: int) -> StepPolicy:
        step = super().at(s)
        assert isinstance(step, PlannedStep)
        return _CompiledStep(self, self.kinds[s], step)

    def group(self, s: int) -> range:
        """Steps are never batched together here."""
        return range(s, s + 1)

    def run_step(self, kind: int, step: PlannedStep, given: tuple) -> Tensor:
        """The model's output at a step of this kind, given latents, timestep, condition, cached tensors, skips and
        the weights of forecasts."""
        key = (kind, *map(_layout, tree_leaves(given)))
        if key not in self._compiled:
            self._compiled[key] = compiled = self._compile(step)
            if self._packs:  # this output is not used: under `packed` it may be of lower precision
                with packed():
                    compiled(*given)
        out, *left = self._compiled[key](*given)
        self.cache.replace(*left)
        return out

    def _compile(self, planned: PlannedStep) -> Callable:
        backbone, ops, runs, tokens = self.backbone, planned.ops, planned.runs, self.cache.condition_tokens

        def step(latents, t, condition, tensors, skips, weights):
            cache = Cache(dict(tensors), dict(skips), tokens, weights)
            out = PlannedStep(backbone, ops, runs, cache).evaluate(backbone, latents, t, condition)
            return out, cache.tensors, cache.skips, cache.reused

        # graphs are stored with the code object of a function, at most eight: each kind has its own
        own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
        return torch.compile(own, **self._options)


class _CompiledStep(StepPolicy):
    """A step that is evaluated as one graph instead of branch by branch."""

    def __init__(self, compiled: Compiled, kind: int, planned: PlannedStep):
        self.compiled, self.kind, self.planned = compiled, kind, planned

    def __call__(self, i, x, ctx):
        return self.planned(i, x, ctx)

    def evaluate(self, backbone: Backbone, latents: Tensor, t: Tensor | float, condition) -> Tensor:
        latents = latents.clone(memory_format=torch.contiguous_format)  # noise of another layout would recompile
        cache = self.compiled.cache
        given = (latents, on_device(t, latents.device), condition, cache.tensors, cache.skips, cache.weights)
        return self.compiled.run_step(self.kind, self.planned, given)


def _layout(x) -> tuple | None:
    """What makes torch.compile silently recompile if it differs."""
    return (x.shape, x.stride(), x.dtype, x.is_inference()) if isinstance(x, Tensor) else None


@contextmanager
def packed() -> Iterator[None]:
    """Within this context torch.compile generates CPU code with weights as constants, packed for oneDNN, and GELU fused
    into its product.

    By default Inductor takes MKL for float32, which is slower than oneDNN on AMD's processors. It takes oneDNN if the
    product may be of lower precision, so that is requested while it generates code.
    """
    products = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009  (unknown to torch's own types)
    before = products.fp32_precision
    with torch._inductor.config.patch(freezing=True):
        products.fp32_precision = "tf32"
        try:
            yield
        finally:
            products.fp32_precision = before
