"""One loop over the branches. What is done at a branch is a small policy: plain, planned, or soft reuse.

A policy is called as `policy(i, x, ctx)` before branch `i` with the stream x (B, N, D) and returns the new stream and
the branch it stands before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonica.backbones.parts import add, add_run, mix
from harmonica.errors import UserError
from harmonica.learning import CHECKPOINT_TOKENS
from harmonica.plan import COMPUTE, REUSE, SPAN_DELTA, SPAN_TIMED, Op, Plan


def evaluate(backbone, latents: Tensor, t, condition, policy: Callable) -> Tensor:
    """The model's output (B, C_out, H, W) for latents (B, C, H, W) at timestep `t` under `policy`.

    The branches compute in the type of the backbone's weights; latents and output keep theirs.

    `condition` is `backbone.condition(labels)`. Long skips begin and end between branches, wherever the policy comes to
    stand; a policy that carries some from step to step brings its own `skips`. One that does the whole step in its own
    way (`compiled.Compiled`) has `evaluate`.
    """
    if hasattr(policy, "evaluate"):
        return policy.evaluate(latents, t, condition)
    x, ctx = backbone.embed(latents.to(backbone.dtype), t, condition)
    i, last, skips = 0, len(backbone.shape.branches), getattr(policy, "skips", {})
    while i < last:
        if i in backbone.joins:
            x = backbone.join(i, x, skips)
        x, i = policy(i, x, ctx)
    return backbone.head(x, ctx).to(latents.dtype)


@dataclass
class Plain:
    """Every branch is computed: the uncached model, and the teacher. The output of the first branch, which a student of
    the same latents shares, is left in `first`."""

    backbone: torch.nn.Module
    first: Tensor | None = None

    def at(self, s: int) -> Callable:
        return self

    def __call__(self, i, x, ctx):
        delta = self.backbone.delta(i, x, ctx)
        if i == 0:
            self.first = delta
        return add(x, delta, self.backbone.gate(i, ctx)), i + 1

    def finish(self) -> None:
        pass


@dataclass
class Following:
    """A plan that is followed, and its cache. What was reused is counted, so that a cache that was asked for and not
    used cannot hide."""

    plan: Plan
    cache: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    reused: int = 0
    steps_done: int = 0
    peak_bytes: int = 0
    condition_tokens: int = 0  # of the backbone: those before the patches

    def start(self, s: int) -> None:
        """Stand before step `s`; step 0 starts anew with an empty cache."""
        if s == 0:
            self.cache, self.reused, self.steps_done, self.peak_bytes = {}, 0, 0, 0
        self.steps_done += 1
        self.ops, self._open = self.plan.program[s], {}

    def open(self, op: Op, x: Tensor) -> None:
        """Remember the stream where spans begin that are to be stored."""
        for span in op.opens:
            self._open[span] = x

    def keep(self, i: int, op: Op, delta: Tensor) -> None:
        """Store a computed branch output, if a later step reuses it."""
        if op.store:
            self._store((REUSE, i, op.stop), delta)

    def take(self, i: int, op: Op) -> Tensor:
        """What is stored for a branch or span that is reused."""
        key = (op.action, i, op.stop)
        self.reused += op.stop - i
        return self.cache.pop(key) if op.drop else self.cache[key]

    def take_span(self, i: int, op: Op, x: Tensor) -> Tensor:
        """The stream behind a span that is reused."""
        stored = self.take(i, op)
        if op.action == SPAN_DELTA:
            return x + stored
        if op.action == SPAN_TIMED:
            n = self.condition_tokens
            return torch.cat([x[:, :n] + stored[:, :n], stored[:, n:]], 1)
        return stored

    def close(self, op: Op, x: Tensor) -> None:
        """Store the spans that end here."""
        for key in op.closes:
            action, *span = key
            before, n = self._open[tuple(span)], self.condition_tokens
            if action == SPAN_DELTA:
                self._store(key, x - before)
            elif action == SPAN_TIMED:
                self._store(key, torch.cat([x[:, :n] - before[:, :n], x[:, n:]], 1))
            else:
                self._store(key, x)

    def _store(self, key, value: Tensor) -> None:
        self.cache[key] = value
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    @property
    def held_bytes(self) -> int:
        """What is kept for later steps at this moment."""
        return sum(v.nbytes for v in self.cache.values())

    @property
    def cur(self) -> float:
        """Measured cache utilisation ratio of the run so far, percent."""
        return 100.0 * self.reused / (max(self.steps_done, 1) * self.plan.branches)

    def finish(self) -> None:
        """Raise UserError unless the run reused what the plan says and left nothing behind."""
        if self.steps_done != self.plan.steps or abs(self.cur - self.plan.cur) > 1e-9:
            raise UserError(
                f"the run reused {self.cur:.2f} % of the branches in {self.steps_done} steps, but the plan says "
                f"{self.plan.cur:.2f} % in {self.plan.steps}: the cache was not used as asked, so no result is given"
            )
        if self.cache:
            raise UserError(f"the run left {len(self.cache)} tensors in the cache that the plan does not reuse")


class Planned(Following):
    """A plan on a backbone. A cache that is given is gone on with, from a step after the first."""

    def __init__(self, backbone: torch.nn.Module, plan: Plan, cache: dict | None = None):
        plan._check_shape(backbone.shape)
        super().__init__(plan, {} if cache is None else cache, condition_tokens=backbone.shape.condition_tokens)
        self.backbone, self.skips = backbone, {}
        self._carried = plan.carried(backbone.shape)
        self._runs_of = [runs(ops, backbone.joins) for ops in plan.program]

    def at(self, s: int) -> Callable:
        """The policy of step `s`."""
        self.start(s)
        self._runs = self._runs_of[s]
        self.skips = {k: v for k, v in self.skips.items() if s and k in self._carried[s - 1]}
        self._counted = self._carried[s] | self._carried[s - 1] if s else self._carried[s]
        return self

    @property
    def held_bytes(self) -> int:
        """With the long skips that are carried into or out of this step."""
        return super().held_bytes + sum(v.nbytes for k, v in self.skips.items() if k in self._counted)

    def group(self, s: int) -> range:
        """The steps from `s` on that may run as one batch, since their outputs do not hang on the latents: they begin
        with the same reused span, of which only the tokens of time and label are this step's, and compute the rest."""
        stop = s
        while stop < self.plan.steps and _blind(self.plan.program[stop], self.plan.program[s]):
            stop += 1
        return range(s, max(stop, s + 1))

    def together(self, group: range, halves: int) -> Callable:
        """The policy of these steps in one batch: all steps of the first guidance half, then of the second."""
        for s in group:
            policy = self.at(s)
        return _Together(policy, len(group), halves)

    def __call__(self, i, x, ctx):
        op = self.ops[i]
        self.open(op, x)
        if op.action == COMPUTE:
            delta = self.backbone.delta(i, x, ctx)
            self.keep(i, op, delta)
            x = add(x, delta, self.backbone.gate(i, ctx))
        elif op.action == REUSE:
            run = self._runs[i]
            deltas = [self.take(k, self.ops[k]) for k in run]
            x = add_run(x, deltas, [self.backbone.gate(k, ctx) for k in run])
            op = self.ops[run[-1]]
        else:
            x = self.take_span(i, op, x)
        self.close(op, x)
        return x, op.stop


def _blind(ops: dict[int, Op], first: dict[int, Op]) -> bool:
    head, *rest = (op for _, op in sorted(ops.items()))
    quiet = all(op.action == COMPUTE and not (op.store or op.opens or op.closes) for op in rest)
    return head.action == SPAN_TIMED and head.stop == first[0].stop and quiet and bool(rest)


class _Together:
    """Several steps of a plan in one batch, see `Planned.group`."""

    def __init__(self, planned: Planned, times: int, halves: int):
        self.planned, self.times, self.halves = planned, times, halves
        self.skips = {k: self._repeated(v) for k, v in planned.skips.items()}

    def _repeated(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.halves, -1)).repeat(1, self.times, 1, 1).flatten(0, 1)

    def __call__(self, i, x, ctx):
        planned, op = self.planned, self.planned.ops[i]
        if op.action == COMPUTE:
            return add(x, planned.backbone.delta(i, x, ctx), planned.backbone.gate(i, ctx)), op.stop
        stored, n = self._repeated(planned.take(i, op)), planned.condition_tokens
        planned.reused += (self.times - 1) * (op.stop - i)
        return torch.cat([x[:, :n] + stored[:, :n], stored[:, n:]], 1), op.stop


def runs(ops: dict[int, Op], joins: frozenset[int]) -> dict[int, list[int]]:
    """The runs of reused branches of a step, by their first: nothing is computed, joined or stored inside one."""
    out: dict[int, list[int]] = {}
    run: list[int] = []
    for i, op in sorted(ops.items()):
        if op.action != REUSE:
            run = []
            continue
        if not run or i in joins or op.opens or ops[run[-1]].closes:
            run = out.setdefault(i, [])
        run.append(i)
    return out


@dataclass
class Soft:
    """The student in training: each output is m = r·fresh + (1−r)·cached; where r > τ the cache takes m.

    With `threshold` None the cache is only read (Learning-to-Cache). A branch without a cached output is computed
    plainly and stored. What is stored takes no gradient, unless `detach` is off. For streams of `checkpoint_tokens` and
    more, what is inside a branch is computed again for its gradients instead of kept.
    """

    backbone: torch.nn.Module
    threshold: float | None
    cache: dict[int, Tensor] = field(default_factory=dict)
    checkpoint_tokens: int = CHECKPOINT_TOKENS
    detach: bool = True

    def row(self, ratios: Tensor | None, first: Tensor | None = None) -> Callable:
        """The policy of one step with ratios (branches,); None computes everything and fills the cache. `first` is the
        output of the first branch for these latents, where it is known."""
        self._ratios, self._first = ratios, first
        never = ratios is None or self.threshold is None
        self._refresh = None if never else (ratios > self.threshold).tolist()
        return self

    def __call__(self, i, x, ctx):
        if i == 0 and self._first is not None:
            out = self._first
        elif x.requires_grad and x.shape[1] >= self.checkpoint_tokens:
            out = checkpoint(self.backbone.delta, i, x, ctx, use_reentrant=False)
        else:
            out = self.backbone.delta(i, x, ctx)
        if self._ratios is None or i not in self.cache:
            self.cache[i] = out.detach() if self.detach else out
        else:
            out = mix(self.cache[i], out, self._ratios[i])
            if self._refresh is not None and self._refresh[i]:
                self.cache[i] = out.detach() if self.detach else out
        return add(x, out, self.backbone.gate(i, ctx)), i + 1
