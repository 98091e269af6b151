"""A fixed plan on the blocks of a diffusers transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from harmonica.execution.cache import CacheState, weights_of
from harmonica.plan import COMPUTE, OUTPUT_FORECAST, Plan
from harmonica.plan.program import SPAN_DELTA, SPANS, Op, Ops
from harmonica.runtimes.pipeline_branches import Block, Output, pack, unpack
from harmonica.runtimes.pipeline_hooks import Evaluations, Streams, lost
from harmonica.utils import UserError


def check_spans(plan: Plan, blocks: tuple[Block, ...]) -> None:
    """Raise UserError unless the spans of a plan are made of whole blocks, have the same streams at both ends if their
    change is cached, and leave no long skip in pieces; or if the plan forecasts what comes after the blocks."""
    if (plan.actions == OUTPUT_FORECAST).any():
        raise UserError(
            "the plan forecasts the model's output, but a pipeline runs its own output layers at every step: forecast "
            "the last block's output instead (form=last), or use `harmonica sample`"
        )
    starts = {b.start: k for k, b in enumerate(blocks)}
    stops = {b.stop: k for k, b in enumerate(blocks)}
    spans = {(op.action, start, op.stop) for ops in plan.program for start, op in ops.items() if op.action in SPANS}
    for action, first, stop in spans:
        if first not in starts or stop not in stops:
            raise UserError("the plan caches a span that is not made of whole blocks: use `harmonica sample`")
        inside = blocks[starts[first] : stops[stop] + 1]
        if action == SPAN_DELTA and len({b.streams for b in inside}) > 1:
            kinds = " to ".join(dict.fromkeys(type(b.module).__name__ for b in inside))
            raise UserError(f"the plan caches the change of a span from {kinds}, whose streams differ")
        if any(b.joins_skips for b in blocks) and len(inside) < len(blocks):
            raise UserError(f"{type(blocks[0].module).__name__} has long skips: a span must be of all blocks")


class Planned(Evaluations):
    """Those of a plan without a rule."""

    cache: CacheState
    ops: Ops
    _span: tuple[int, Op, Tensor]  # that is taken from the cache: its first branch, and the streams before it

    def __init__(self, blocks: tuple[Block, ...], plan: Plan):
        super().__init__(blocks, plan.steps)
        self.plan = plan
        self._until = 0  # the branch after a span that is taken from the cache
        self._outputs: dict[int, Output] = {}  # of the branches

    def step(self, s: int, streams: Streams) -> None:
        if s == 0:
            self.cache = CacheState(self.plan, weights=weights_of(self.plan, streams[0].device))
        self.ops, self._until = self.cache.start(s), 0

    def before(self, b: Block, streams: Streams, run: Callable[[], Any]) -> Streams | None:
        if b.start < self._until:
            return self._in_span(b, streams)
        op = self.ops[b.start]
        whole = not b.branches and op.predicts
        if not (op.opens or whole or op.action in SPANS):
            return None
        x = pack(streams)
        self.cache.open(op, x)
        if op.action in SPANS:
            self._until, self._span = op.stop, (b.start, op, x)
            return self._in_span(b, streams)
        if not whole:
            return None
        x = x + self._taken(b.start)
        self.cache.close(op, x)
        return unpack(x, [t.shape for t in streams])

    def _in_span(self, b: Block, streams: Streams) -> Streams:
        """The streams after a block of a span that is taken from the cache; what the span gives comes with its last
        block, since others may have other streams."""
        if b.stop < self._until:
            return streams
        start, op, base = self._span
        x = self.cache.take_span(start, op, base)
        self.cache.close(op, x)
        return unpack(x, [t.shape for t in streams])

    def after(self, b: Block, before: Streams, out: Any) -> Any:
        op = self.ops[b.stop - 1]
        if op.closes or (not b.branches and op.keep):
            x = pack(b.given(out, before))
            if not b.branches:
                self.cache.keep(op, x - pack(before))
            self.cache.close(op, x)
        return out

    def before_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        op = self.ops.get(i)
        if op is None:
            raise lost(f"branch {i} was called outside its block")
        return None if op.action == COMPUTE else self._outputs[i].unpack(self._taken(i))

    def after_branch(self, i: int, out: Any) -> Any:
        if self.ops[i].keep:
            self._outputs[i] = Output.of(out)
            self.cache.keep(self.ops[i], self._outputs[i].pack(out))
        return out

    def _taken(self, i: int) -> Tensor:
        try:
            return self.cache.take(i, self.ops[i])
        except KeyError:
            raise lost(f"nothing was cached for branch {i}") from None

    def finish(self) -> None:
        self.cache.finish()
