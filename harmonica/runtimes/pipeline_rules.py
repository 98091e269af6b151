"""A plan with a rule on the blocks of a diffusers transformer: every sequence decides for itself.

Sequences of one evaluation are computed together. If one of them computes the span, the blocks run for all, and those
that skip take their cached change all the same: an image does not depend on what it is generated with, and time is
saved where all sequences of an evaluation skip. Pipelines that evaluate guidance halves apart save the most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harmonica.execution.rules import Decisions
from harmonica.plan import Plan
from harmonica.plan.rule import span_of
from harmonica.runtimes.pipeline_branches import Block, first_tensor, pack, unpack
from harmonica.runtimes.pipeline_hooks import Evaluations, Streams


class Ruled(Evaluations):
    """Those of a plan with a rule. What it compares are the image's tokens; changes are cached of all streams."""

    def __init__(self, blocks: tuple[Block, ...], plan: Plan):
        super().__init__(blocks, plan.steps)
        self.first, self.stop = span_of(plan.actions)
        self.decisions = Decisions(plan, lambda x, run: self._first_input(run))
        self._probing = False

    def step(self, s: int, streams: Streams) -> None:
        self.s, self._all, self._skipping = s, streams[0], False

    def before(self, b: Block, streams: Streams, run: Callable[[], Any]) -> Streams | None:
        if b.start == self.first:
            self._skip = self.decisions.skips(self.s, self._all, streams[0], run)
            self._base, self._skipping = pack(streams), bool(self._skip.all())
        if not (self._skipping and self.first <= b.start < self.stop):
            return None
        if b.stop < self.stop:
            return streams
        after = self._changed(self._base, streams)
        self._span_end = after[0]
        self._maybe_done(b, after[0])
        return after

    def after(self, b: Block, before: Streams, out: Any) -> Any:
        after = b.given(out, before)
        if b.stop == self.stop:
            computed, rows = pack(after), (~self._skip).nonzero().flatten()
            self.decisions.changes.keep(self.s, rows, (computed - self._base)[rows], len(computed))
            if self._skip.any():
                after = self._changed(computed, after)
                out = b.returned(after, out)
            self._span_end = after[0]
        self._maybe_done(b, after[0])
        return out

    def _changed(self, x: Tensor, like: Streams) -> Streams:
        """The streams after the span, packed in `x`, with those of skipping sequences from the cache."""
        rows = self._skip.nonzero().flatten()
        taken = self._base[rows] + self.decisions.changes.take(self.s, rows)
        return unpack(x.index_copy(0, rows, taken), [t.shape for t in like])

    def _maybe_done(self, b: Block, image: Tensor) -> None:
        if b.stop == self.blocks[-1].stop:
            self.decisions.done(self.s, self._span_end, image)

    def _first_input(self, run: Callable[[], Any]) -> Tensor:
        """What the first branch computes from: the first block runs as far as that."""
        if not self.blocks[0].branches:
            return self._all
        self._probing = True
        try:
            run()
        except _Found as found:
            return found.value
        finally:
            self._probing, self._called = False, []
        raise AssertionError("the first block did not call its first branch")

    def before_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        if self._probing:
            raise _Found(first_tensor(args, more))
        return None


class _Found(Exception):
    def __init__(self, value: Tensor):
        self.value = value


def skipped(evaluations: list[Ruled]) -> Tensor:
    """Bool (sequences, steps), what the sequences of all places in a step did."""
    return torch.cat([e.decisions.skipped for e in evaluations])
