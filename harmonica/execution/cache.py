"""The cache while a plan is executed."""

import torch
from torch import Tensor

from harmonica.backbones.layers import at_least_float32
from harmonica.plan import OUTPUT_FORECAST, SPAN_DELTA, SPAN_TIMED, Plan
from harmonica.plan.program import FORECASTS, Keep, Key, Op, Ops, history
from harmonica.utils import UserError


class Cache:
    """Cached tensors and long skips (B, N, D) of one step, no bookkeeping; outputs of the model are (B, C, H, W).

    `tensors` are keyed by (action, first branch, branch after the last, age), `skips` by their first branch;
    `condition_tokens` is the number of tokens before the patches. `weights` (1 or branches, J) are those of this step's
    forecasts, if it has any.
    """

    def __init__(
        self,
        tensors: dict[Key, Tensor],
        skips: dict[int, Tensor],
        condition_tokens: int = 0,
        weights: Tensor | None = None,
    ):
        self.tensors, self.skips, self.condition_tokens, self.weights = tensors, skips, condition_tokens, weights
        self.reused = 0
        self._open: dict[tuple[int, int], Tensor] = {}  # the stream at the start of spans to cache

    def open(self, op: Op, x: Tensor) -> None:
        """Keep the stream x (B, N, D) at the start of spans to cache."""
        for span in op.opens:
            self._open[span] = x

    def keep(self, op: Op, delta: Tensor) -> None:
        """Cache a computed branch output, if a later step takes it."""
        if op.keep:
            self._enter(op.keep, delta)

    def _enter(self, keep: Keep, value: Tensor) -> None:
        for age in reversed(keep.older):
            self.tensors[*keep.history, age + 1] = self.tensors.pop((*keep.history, age))
        if keep.store:
            self.store((*keep.history, 0), value)

    def taken(self, i: int, op: Op) -> list[tuple[Tensor, Tensor | None]]:
        """The cached tensors (B, N, D) that make up a reused or forecast output, each with its weight () if it is a
        forecast's."""
        self.reused += op.stop - i
        out = []
        for age in op.ages:
            key = (*history(op.action, i, op.stop), age)
            weight = None
            if op.action in FORECASTS:
                assert self.weights is not None
                weight = self.weights[i if len(self.weights) > 1 else 0, age]
            out.append((self._drop(key) if age in op.drop else self.tensors[key], weight))
        return out

    def _drop(self, key: Key) -> Tensor:
        return self.tensors.pop(key)

    def take(self, i: int, op: Op) -> Tensor:
        """The output (B, N, D) of a reused or forecast branch, or of a span."""
        return weighted(self.taken(i, op))

    def take_span(self, i: int, op: Op, x: Tensor) -> Tensor:
        """The stream x after a reused or forecast span."""
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
        """Cache the spans that end here; the model's output follows from `keep_output`."""
        for keep in op.closes:
            action, start, stop = keep.history
            if action == OUTPUT_FORECAST:
                continue
            before, n = self._open[start, stop], self.condition_tokens
            if action == SPAN_DELTA:
                self._enter(keep, x - before)
            elif action == SPAN_TIMED:
                self._enter(keep, torch.cat([x[:, :n] - before[:, :n], x[:, n:]], 1))
            else:
                self._enter(keep, x)

    def keep_output(self, op: Op, out: Tensor) -> None:
        """Cache the model's output (B, C_out, H, W) after the last operation, if a later step takes it."""
        for keep in op.closes:
            if keep.history[0] == OUTPUT_FORECAST:
                self._enter(keep, out)

    def store(self, key: Key, value: Tensor) -> None:
        self.tensors[key] = value


def weights_of(plan: Plan, device: torch.device) -> Tensor | None:
    """The weights of a plan's forecasts (steps, 1 or branches, J); None if it has none."""
    return None if plan.weights is None else torch.tensor(plan.weights, device=device)


def weighted(taken: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Σ w_j · F_j of tensors (B, N, D) and their weights (); a tensor without weight alone is itself."""
    (first, weight), *more = taken
    if weight is None:
        return first
    out = at_least_float32(first) * weight  # the sum of weights is 1, and rounded it would scale the output
    for tensor, weight in more:
        assert weight is not None
        out = out.addcmul_(at_least_float32(tensor), weight)
    return out.to(first.dtype)


class CacheState(Cache):
    """The cache of a trajectory under a plan. Reuses are counted, to detect a cache that was requested but not
    used.

    `carried` lists the long skips kept after each step (`carried_skips`); given `tensors` continue the cache of a
    trajectory from a step after the first. `weights` (steps, 1 or branches, J) are those of the plan's forecasts.
    """

    def __init__(
        self,
        plan: Plan,
        carried=None,
        condition_tokens: int = 0,
        tensors: dict[Key, Tensor] | None = None,
        weights: Tensor | None = None,
    ):
        super().__init__({} if tensors is None else tensors, {}, condition_tokens)
        self.plan, self.steps_done, self.peak_bytes = plan, 0, 0
        self._weights = weights
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
        self.weights = None if self._weights is None else self._weights[s]
        return self.plan.program[s]

    def resume(self, s: int, tensors: dict[Key, Tensor], reused: int) -> None:
        """Continue a trajectory before step `s`, with the tensors that were cached and no long skips."""
        self.tensors, self.skips, self.reused, self.steps_done = tensors, {}, reused, s
        self._held = self.peak_bytes = sum(v.nbytes for v in tensors.values())

    def _drop(self, key: Key) -> Tensor:
        stored = super()._drop(key)
        self._held -= stored.nbytes
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
