"""The cache while a plan is executed."""

import torch
from torch import Tensor

from harmonica.plan import REUSE, SPAN_DELTA, SPAN_TIMED, Plan
from harmonica.plan.program import Key, Op, Ops
from harmonica.utils import UserError


class Cache:
    """Cached tensors and long skips (B, N, D) of one step, no bookkeeping.

    `tensors` are keyed by (action, first branch, branch after the last), `skips` by their first branch;
    `condition_tokens` is the number of tokens before the patches.
    """

    def __init__(self, tensors: dict[Key, Tensor], skips: dict[int, Tensor], condition_tokens: int = 0):
        self.tensors, self.skips, self.condition_tokens = tensors, skips, condition_tokens
        self.reused = 0
        self._open: dict[tuple[int, int], Tensor] = {}  # the stream at the start of spans to cache

    def open(self, op: Op, x: Tensor) -> None:
        """Keep the stream x (B, N, D) at the start of spans to cache."""
        for span in op.opens:
            self._open[span] = x

    def keep(self, i: int, op: Op, delta: Tensor) -> None:
        """Cache a computed branch output, if a later step reuses it."""
        if op.store:
            self.store((REUSE, i, op.stop), delta)

    def take(self, i: int, op: Op) -> Tensor:
        """Cached tensor (B, N, D) of a reused branch or span."""
        key = (op.action, i, op.stop)
        self.reused += op.stop - i
        return self.tensors.pop(key) if op.drop else self.tensors[key]

    def take_span(self, i: int, op: Op, x: Tensor) -> Tensor:
        """The stream x after a reused span."""
        stored = self.take(i, op)
        if op.action == SPAN_DELTA:
            return x + stored
        return self.with_own_condition(x, stored) if op.action == SPAN_TIMED else stored

    def with_own_condition(self, x: Tensor, stored: Tensor) -> Tensor:
        """The stream after a timed span: time and label tokens are x's plus their cached change, patches as
        cached."""
        n = self.condition_tokens
        return torch.cat([x[:, :n] + stored[:, :n], stored[:, n:]], 1)

    def close(self, op: Op, x: Tensor) -> None:
        """Cache the spans that end here."""
        for key in op.closes:
            action, start, stop = key
            before, n = self._open[start, stop], self.condition_tokens
            if action == SPAN_DELTA:
                self.store(key, x - before)
            elif action == SPAN_TIMED:
                self.store(key, torch.cat([x[:, :n] - before[:, :n], x[:, n:]], 1))
            else:
                self.store(key, x)

    def store(self, key: Key, value: Tensor) -> None:
        self.tensors[key] = value


class CacheState(Cache):
    """The cache of a trajectory under a plan. Reuses are counted, to detect a cache that was requested but not
    used.

    `carried` lists the long skips kept after each step (`carried_skips`); given `tensors` continue the cache of a
    trajectory from a step after the first.
    """

    def __init__(self, plan: Plan, carried=None, condition_tokens: int = 0, tensors: dict[Key, Tensor] | None = None):
        super().__init__({} if tensors is None else tensors, {}, condition_tokens)
        self.plan, self.steps_done, self.peak_bytes = plan, 0, 0
        self._held = sum(v.nbytes for v in self.tensors.values())
        self._carried: tuple[frozenset[int], ...] = carried or (frozenset(),) * plan.steps
        self._counted: frozenset[int] = frozenset()

    def start(self, s: int) -> Ops:
        """Begin step `s`, whose operations are returned; step 0 begins a trajectory with an empty cache."""
        if s == 0:
            self.tensors, self.reused, self.steps_done, self.peak_bytes, self._held = {}, 0, 0, 0, 0
        self.steps_done += 1
        self._open = {}
        before = self._carried[s - 1] if s else frozenset()
        self.skips = {k: v for k, v in self.skips.items() if k in before}
        self._counted = self._carried[s] | before
        return self.plan.program[s]

    def take(self, i: int, op: Op) -> Tensor:
        stored = super().take(i, op)
        self._held -= stored.nbytes * op.drop
        return stored

    def store(self, key: Key, value: Tensor) -> None:
        self._held += value.nbytes - (self.tensors[key].nbytes if key in self.tensors else 0)
        self.tensors[key] = value
        self._update_peak()

    def replace(self, tensors: dict[Key, Tensor], skips: dict[int, Tensor], reused: int) -> None:
        """What a step that ran as one graph left."""
        self.tensors, self.skips = tensors, skips
        self.reused += reused
        self._held = sum(v.nbytes for v in tensors.values())
        self._update_peak()

    def _update_peak(self) -> None:
        """With tensors kept for later steps, and long skips carried into or out of this one."""
        skips = sum(v.nbytes for k, v in self.skips.items() if k in self._counted)
        self.peak_bytes = max(self.peak_bytes, self._held + skips)

    @property
    def cur(self) -> float:
        """Measured cache utilisation ratio of the trajectory so far, percent."""
        return 100.0 * self.reused / (max(self.steps_done, 1) * self.plan.branches)

    def finish(self) -> None:
        """Raise UserError unless the trajectory reused as planned and left the cache empty."""
        if self.steps_done != self.plan.steps or abs(self.cur - self.plan.cur) > 1e-9:
            raise UserError(
                f"measured CUR {self.cur:.2f} % in {self.steps_done} steps ≠ planned {self.plan.cur:.2f} % in "
                f"{self.plan.steps}; aborting: the cache was not used as requested, so no result is given"
            )
        if self.tensors:
            raise UserError(
                f"the trajectory left {len(self.tensors)} tensors in the cache that the plan does not reuse"
            )
