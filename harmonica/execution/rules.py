"""Rules at run time: every sequence decides for itself, and those that compute run as a smaller batch.

No sequence changes another's decision, whatever the batch: images do not depend on what they were generated with, and
conditional and unconditional halves have their own caches and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harmonica.backbones.base import Backbone, rows_of
from harmonica.execution.executor import run_branches
from harmonica.execution.policy import Plain, Policy, StepPolicy
from harmonica.plan import Plan
from harmonica.plan.forecast import taylor
from harmonica.plan.rule import Rule, span_of
from harmonica.utils import UserError

Normed = Callable[[Tensor, Any], Tensor]


def relative(now: Tensor, before: Tensor) -> Tensor:
    """Relative L1 change (B,) of tensors (B, …)."""
    return (now - before).abs().flatten(1).mean(1) / before.abs().flatten(1).mean(1)


class Outputs:
    """The last tensors (B, …) that were computed for every sequence, at most `count`, and their steps."""

    def __init__(self, count: int):
        self.count = count
        self.tensors: list[Tensor] = []  # the newest first
        self.steps: list[list[int]] = []  # of every sequence, the newest first

    def keep(self, s: int, rows: Tensor, values: Tensor, batch: int) -> None:
        """Values (m, …) that the sequences `rows` (m,) of the batch computed at step `s`; they belong to it now."""
        if not self.steps:
            self.steps = [[] for _ in range(batch)]
        if len(rows) == batch:
            self.tensors = [values, *self.tensors][: self.count]
        else:
            if len(self.tensors) < self.count and any(len(self.steps[r]) == len(self.tensors) for r in rows.tolist()):
                self.tensors.append(torch.zeros_like(self.tensors[0]))
            for older, newer in zip(self.tensors[:0:-1], self.tensors[-2::-1], strict=True):
                older[rows] = newer[rows]
            self.tensors[0] = self.tensors[0].index_copy(0, rows, values)
        for r in rows.tolist():
            self.steps[r] = [s, *self.steps[r]][: self.count]

    def take(self, s: int, rows: Tensor) -> Tensor:
        """The Taylor series (m, …) of the sequences `rows` at step `s`; of order 0 the newest tensor."""
        if self.count == 1:
            return self.tensors[0][rows]
        out = torch.zeros_like(self.tensors[0][rows])
        weights = torch.zeros(len(self.tensors), len(rows), dtype=out.dtype)
        for k, r in enumerate(rows.tolist()):
            own = taylor(s, self.steps[r], self.count - 1)
            weights[: len(own), k] = torch.from_numpy(own)
        for tensor, weight in zip(self.tensors, weights.to(out.device), strict=True):
            out += tensor[rows] * weight.view(-1, *[1] * (out.ndim - 1))
        return out

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


class Measure:
    """What a rule compares with its threshold, for every sequence; a subclass is one measure. `normed` gives what the
    first branch computes from, for the stream and the context of all branches."""

    def __init__(self, rule: Rule, normed: Normed):
        self.rule, self.normed = rule, normed

    def value(self, s: int, x: Tensor, probed: Tensor, ctx: Any) -> Tensor | None:
        """(B,), for the stream before all branches and before the span; None if nothing is known yet."""
        raise NotImplementedError

    def limit(self, s: int, steps: int) -> float:
        """What `value` must be below."""
        return self.rule.threshold

    def decided(self, computed: Tensor) -> None:
        """Which sequences (B,) compute."""

    def after(self, s: int, steps: int, computed: Tensor, run: Tensor, span_end: Tensor, out: Tensor) -> None:
        """The stream at the end of the span and after all branches; `run` (B,) counts skips in a row."""

    @property
    def nbytes(self) -> int:
        """Of what it keeps between steps."""
        return 0


class InputChange(Measure):
    """TeaCache: the relative change of the first branch's input since the step before, put through a polynomial and
    summed up since the last computed step."""

    def __init__(self, rule, normed):
        super().__init__(rule, normed)
        self.before: Tensor | None = None
        self.sum: Tensor | None = None

    def value(self, s, x, probed, ctx):
        now = self.normed(x, ctx)
        before, self.before = self.before, now
        if before is None:
            return None
        change = relative(now, before)
        if self.rule.coefficients:
            terms = torch.zeros_like(change)
            for c in self.rule.coefficients:
                terms = terms * change + c
            change = terms.abs()
        self.sum = change if self.sum is None else self.sum + change
        return self.sum

    def decided(self, computed):
        if self.sum is not None:
            self.sum = self.sum.masked_fill(computed, 0)

    @property
    def nbytes(self):
        return self.before.nbytes if self.before is not None else 0


class FirstBranches(Measure):
    """First-block cache: the relative change, since the last computed step, of what the branches before the span add to
    the stream."""

    def __init__(self, rule, normed):
        super().__init__(rule, normed)
        self.at_compute: Tensor | None = None
        self.now: Tensor | None = None

    def value(self, s, x, probed, ctx):
        self.now = probed - x
        return None if self.at_compute is None else relative(self.now, self.at_compute)

    def decided(self, computed):
        if self.at_compute is None or computed.all():
            self.at_compute = self.now
        else:
            assert self.now is not None
            self.at_compute = torch.where(computed[:, None, None], self.now, self.at_compute)
        self.now = None

    @property
    def nbytes(self):
        return self.at_compute.nbytes if self.at_compute is not None else 0


class Rate(Measure):
    """EasyCache: the output's relative change is expected to be the input's change times the rate of both at the last
    computed step, and summed up since then. Input and output are the stream before and after all branches."""

    def __init__(self, rule, normed):
        super().__init__(rule, normed)
        self.x: Tensor | None = None  # at the step before
        self.out: Tensor | None = None
        self.rate: Tensor | None = None  # (B,)
        self.sum: Tensor | None = None
        self.moved: Tensor | None = None  # the input's change at this step, (B,)

    def value(self, s, x, probed, ctx):
        before, self.x = self.x, x
        if before is None:
            return None
        self.moved = (x - before).abs().flatten(1).mean(1)
        if self.rate is None:
            return None
        assert self.out is not None
        change = self.rate * self.moved / self.out.abs().flatten(1).mean(1)
        self.sum = change if self.sum is None else self.sum + change
        return self.sum

    def decided(self, computed):
        if self.sum is not None:
            self.sum = self.sum.masked_fill(computed, 0)

    def after(self, s, steps, computed, run, span_end, out):
        if self.out is not None and self.moved is not None:
            rate = (out - self.out).abs().flatten(1).mean(1) / self.moved
            self.rate = rate if self.rate is None else torch.where(computed, rate, self.rate)
        self.out = out

    @property
    def nbytes(self):
        return sum(t.nbytes for t in (self.x, self.out) if t is not None)


class Verified(Measure):
    """SpeCa: after `least` forecasts in a row the branches behind the span run on the forecast, and what they add to
    the stream is compared with its own Taylor series; above threshold · decay^progress, or `floor`, the next step is
    computed."""

    def __init__(self, rule, normed):
        super().__init__(rule, normed)
        self.added = Outputs(rule.order + 1)
        self.failed: Tensor | None = None

    def value(self, s, x, probed, ctx):
        return None if self.failed is None else self.failed.to(x.dtype)

    def limit(self, s, steps):
        return 0.5  # of a flag

    def after(self, s, steps, computed, run, span_end, out):
        if self.failed is None:
            self.failed = torch.zeros_like(computed)
        added, batch = out - span_end, len(out)
        rows = computed.nonzero().flatten()
        if len(rows):
            self.added.keep(s, rows, added[rows], batch)
        self.failed[:] = False
        checked = (run >= self.rule.parameters["least"]).nonzero().flatten()
        if len(checked):
            error = relative(self.added.take(s, checked), added[checked])
            p = self.rule.parameters
            limit = max(p["floor"], self.rule.threshold * p["decay"] ** (s / max(steps - 1, 1)))
            self.failed[checked] = error > limit

    @property
    def nbytes(self):
        return self.added.nbytes


CLASSES: dict[str, type[Measure]] = {
    "input": InputChange, "first branches": FirstBranches, "rate": Rate, "verified": Verified,
}  # fmt: skip


class Decisions:
    """What the sequences of one trajectory decide under the rule of a plan, and the changes of the span that they
    cache."""

    def __init__(self, plan: Plan, normed: Normed):
        assert plan.rule
        self.plan, self.rule = plan, plan.rule
        self.allowed = (plan.actions != 0).any(1)
        self.measure = CLASSES[self.rule.measure](self.rule, normed)
        self.changes = Outputs(self.rule.order + 1)
        self.peak_bytes = 0
        self._skipped: list[Tensor] = []
        self._run: Tensor | None = None  # (B,) skips in a row

    @property
    def skipped(self) -> Tensor:
        """Bool (B, steps), what each sequence did."""
        return torch.stack(self._skipped, 1).cpu()

    def skips(self, s: int, x: Tensor, probed: Tensor, ctx: Any) -> Tensor:
        """Which sequences (B,) skip the span at step `s`, for the stream before all branches and before the span."""
        value = self.measure.value(s, x, probed, ctx)
        run = self._run if self._run is not None else torch.zeros(len(x), dtype=torch.long, device=x.device)
        if value is None or not self.allowed[s] or not self.changes.steps:
            skip = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        else:
            skip = value < self.measure.limit(s, self.plan.steps)
            if self.rule.most is not None:
                skip &= run < self.rule.most
        self.measure.decided(~skip)
        self._skipped.append(skip)
        self._run = torch.where(skip, run + 1, 0)
        return skip

    def done(self, s: int, span_end: Tensor, out: Tensor) -> None:
        """The stream at the end of the span and after all branches."""
        assert self._run is not None
        self.measure.after(s, self.plan.steps, ~self._skipped[-1], self._run, span_end, out)
        self.peak_bytes = max(self.peak_bytes, self.changes.nbytes + self.measure.nbytes)


class Ruled(Policy):
    """A plan with a rule on a backbone. `skipped` bool (B, steps) is what each sequence of the last trajectory did."""

    def __init__(self, backbone: Backbone, plan: Plan):
        plan.check_layout(backbone.layout)
        self.backbone, self.plan = backbone, plan
        self.span = span_of(plan.actions)
        self._begin()

    def _begin(self) -> None:
        self.decisions = Decisions(self.plan, lambda x, ctx: self.backbone.normed(0, x, ctx))
        self.steps_done = 0

    @property
    def skipped(self) -> Tensor:
        return self.decisions.skipped

    @property
    def peak_bytes(self) -> int:
        return self.decisions.peak_bytes

    def at(self, s: int) -> StepPolicy:
        if s == 0:
            self._begin()
        self.steps_done += 1
        return _RuledStep(self, s)

    def finish(self) -> None:
        """Raise UserError unless all steps ran."""
        if self.steps_done != self.plan.steps:
            raise UserError(f"{self.steps_done} of the plan's {self.plan.steps} steps ran; aborting")


class _RuledStep(StepPolicy):
    """One step under a rule."""

    def __init__(self, policy: Ruled, s: int):
        self.policy, self.s = policy, s

    def __call__(self, i, x, ctx):
        raise NotImplementedError("a rule decides about whole spans: see `evaluate`")

    def evaluate(self, backbone, latents, t, condition):
        decisions, (first, stop), s = self.policy.decisions, self.policy.span, self.s
        plain = Plain(backbone)
        skips: dict[int, Tensor] = {}
        start, ctx = backbone.embed(latents.to(backbone.dtype), t, condition)
        x = run_branches(backbone, (0, first), start, ctx, plain, skips)
        skip = decisions.skips(s, start, x, ctx)
        rows, others = (~skip).nonzero().flatten(), skip.nonzero().flatten()
        if not len(others):
            end = run_branches(backbone, (first, stop), x, ctx, plain, skips)
            decisions.changes.keep(s, rows, end - x, len(x))
        else:
            end = x.clone()
            end[others] += decisions.changes.take(s, others)
            if len(rows):
                own, own_skips = rows_of(ctx, rows, len(x)), {k: v[rows] for k, v in skips.items()}
                computed = run_branches(backbone, (first, stop), x[rows], own, plain, own_skips)
                decisions.changes.keep(s, rows, computed - x[rows], len(x))
                end[rows] = computed
        out = run_branches(backbone, (stop, len(backbone.layout.branches)), end, ctx, plain, skips)
        decisions.done(s, end, out)
        return backbone.head(out, ctx).to(latents.dtype)
