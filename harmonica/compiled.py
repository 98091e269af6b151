"""Compiled plans. What a step does is known before the first one, so each is a single graph without breaks; steps that
do the same share one. On a GPU the whole trajectory can be one CUDA graph besides.

A learned plan has nearly as many kinds of steps as steps, and each is compiled, which takes many times as long as it
runs: this is for drawing many batches with one plan.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from harmonica.backbones.parts import on_device
from harmonica.executor import Planned, evaluate
from harmonica.plan import Plan


class Compiled(Planned):
    """`Planned`, every step by torch.compile; make one and draw all batches with it. Outputs differ from those of
    `Planned` by rounding. `peak_bytes` is what is held between steps.

    `options` go to torch.compile. Without any, on a CPU the weights are packed for oneDNN's products, see `packed`:
    they must not change afterwards, and each kind of step holds those that it computes with. Raises what torch.compile
    raises where a step is not one graph.
    """

    def __init__(self, backbone: torch.nn.Module, plan: Plan, **options):
        super().__init__(backbone, plan)
        self._packs = not options and backbone.device.type == "cpu"
        self._options = {"fullgraph": True, "dynamic": False} | options
        # for every step what it does, and which long skips it is given; numbers of steps that are equal in both
        given = [frozenset(), *self._carried[:-1]]
        does = [(tuple(sorted(ops.items())), skips) for ops, skips in zip(plan.program, given, strict=True)]
        self.kinds = [does.index(kind) for kind in does]
        self._compiled: dict[tuple, Callable] = {}  # by kind, and layout of what is given
        self._kind = 0

    def at(self, s: int) -> Callable:
        self._kind = self.kinds[s]
        return super().at(s)

    def group(self, s: int) -> range:
        """Steps are never batched together here."""
        return range(s, s + 1)

    def evaluate(self, latents: Tensor, t, condition) -> Tensor:
        """The step that `at` stands before."""
        latents = latents.clone(memory_format=torch.contiguous_format)  # noise from outside would have code of its own
        given = (latents, on_device(t, latents.device), condition, self.cache, self.skips)
        key = (self._kind, *map(_layout, tree_leaves(given)))
        if key not in self._compiled:
            self._compiled[key] = run = self._compile()
            if self._packs:  # what it gives here is not used: under `packed` it may be of lower precision
                with packed():
                    run(*given)
        out, self.cache, self.skips, reused = self._compiled[key](*given)
        self.reused += reused
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return out

    def _compile(self) -> Callable:
        backbone, ops, runs, tokens = self.backbone, self.ops, self._runs, self.condition_tokens

        def step(latents, t, condition, cache, skips):
            policy = _Step(backbone, ops, runs, tokens, dict(cache), dict(skips))
            out = evaluate(backbone, latents, t, condition, policy)
            return out, policy.cache, policy.skips, policy.reused

        # graphs are kept with the code of a function, and no more than eight: each has its own
        own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
        return torch.compile(own, **self._options)


def _layout(x) -> tuple | None:
    """What torch.compile would generate other code for, behind our back."""
    return (x.shape, x.stride(), x.dtype, x.is_inference()) if isinstance(x, Tensor) else None


class _Step(Planned):
    """One step of a plan as it is traced: `Planned` without its accounts."""

    def __init__(self, backbone, ops, runs, tokens, cache, skips):
        self.backbone, self.ops, self._runs, self.condition_tokens = backbone, ops, runs, tokens
        self.cache, self.skips, self._open, self.reused = cache, skips, {}, 0

    def _store(self, key, value: Tensor) -> None:
        self.cache[key] = value


@contextmanager
def packed() -> Iterator[None]:
    """What torch.compile generates here for a CPU takes weights as constants, packed for oneDNN, with a GELU inside its
    product.

    Left alone, Inductor takes MKL for float32, which on AMD's processors runs at half of oneDNN's speed. It takes
    oneDNN where the product may be of lower precision, so that is what is asked for while it generates code.
    """
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    with torch._inductor.config.patch(freezing=True):
        products.fp32_precision = "tf32"
        try:
            yield
        finally:
            products.fp32_precision = before


class CudaGraph:
    """A function of one tensor on a GPU, recorded once for inputs of this shape and then replayed: one launch for a
    whole trajectory. The function must not wait for the host; a deterministic sampler under any plan does not.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], example: Tensor, warm_ups: int = 2):
        self._input, side = example.clone(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles and allocates what must not happen while recording
            for _ in range(warm_ups):
                run(self._input)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = run(self._input)

    def __call__(self, x: Tensor) -> Tensor:
        self._input.copy_(x)
        self._graph.replay()
        return self._output.clone()
