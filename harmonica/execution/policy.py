"""Policies: what is done at each branch. Plain computes all, Planned follows a plan; the soft reuse of router
training is in harmonica/training/soft.py."""

from __future__ import annotations

import typing
from typing import Any

from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.backbones.layers import add, add_run
from harmonica.execution import executor
from harmonica.execution.cache import Cache, CacheState, weights_of
from harmonica.plan import COMPUTE, Plan
from harmonica.plan.program import Op, Ops, carried_skips, independent_steps, skips_model, skips_stream


class StepPolicy(typing.Protocol):
    """The policy of one step. Called before branch `i` with the stream x (B, N, D), it returns the new stream and the
    branch to continue with."""

    @property
    def skips(self) -> dict[int, Tensor]:
        """Long skips carried into this step; it adds its own."""
        return {}

    @property
    def skips_stream(self) -> bool:
        """Whether the stream after all branches comes from a cache, whatever it was before."""
        return False

    def cached_output(self) -> Tensor | None:
        """The model's output (B, C_out, H, W), if this step takes it from a cache."""
        return None

    def keep_output(self, out: Tensor) -> None:
        """Called with the model's output (B, C_out, H, W), where it was computed."""
        return None

    def __call__(self, i: int, x: Tensor, ctx: Any) -> tuple[Tensor, int]: ...

    def evaluate(self, backbone: Backbone, latents: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        """The model's output under this policy, see `executor.evaluate`."""
        return executor.evaluate(backbone, latents, t, condition, self)


class Policy(typing.Protocol):
    """The policy of a trajectory: one StepPolicy per step, taken in order."""

    def at(self, s: int) -> StepPolicy:
        """The policy of step `s`; step 0 begins a trajectory."""
        ...

    def group(self, s: int) -> range:
        """The steps from `s` on that may run as one batch, since their outputs do not depend on the latents."""
        return range(s, s + 1)

    def together(self, group: range, halves: int) -> StepPolicy:
        """The policy of a group in one batch: all its steps of the first guidance half, then of the second."""
        return self.at(group[0])

    def finish(self) -> None:
        """Check the trajectory at its end. Raises UserError unless it went as planned."""
        return None


class Plain(Policy, StepPolicy):
    """Every branch is computed: the uncached model, and the teacher of router training. `first` keeps the output of the
    first branch, which a student on the same latents shares."""

    first: Tensor | None = None

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def at(self, s: int) -> StepPolicy:
        return self

    def __call__(self, i, x, ctx):
        delta = self.backbone.delta(i, x, ctx)
        if i == 0:
            self.first = delta
        return add(x, delta, self.backbone.gate(i, ctx)), i + 1


class PlannedStep(StepPolicy):
    """One step of a plan on a backbone: operations by branch, and the runs of reused and forecast branches
    (`reuse_runs`)."""

    def __init__(self, backbone: Backbone, ops: Ops, runs: dict[int, list[int]], cache: Cache):
        self.backbone, self.ops, self.runs, self.cache = backbone, ops, runs, cache

    @property
    def skips(self) -> dict[int, Tensor]:
        return self.cache.skips

    @property
    def skips_stream(self) -> bool:
        return skips_stream(self.ops, len(self.backbone.layout.branches))

    def cached_output(self):
        return self.cache.take(0, self.ops[0]) if skips_model(self.ops) else None

    def keep_output(self, out):
        self.cache.keep_output(self.ops[max(self.ops)], out)

    def __call__(self, i, x, ctx):
        op, cache = self.ops[i], self.cache
        cache.open(op, x)
        if op.action == COMPUTE:
            delta = self.backbone.delta(i, x, ctx)
            cache.keep(op, delta)
            x = add(x, delta, self.backbone.gate(i, ctx))
        elif op.predicts:
            run = self.runs[i]
            x = add_run(x, [term for k in run for term in self._terms(k, ctx)])
            op = self.ops[run[-1]]
        else:
            x = cache.take_span(i, op, x)
        cache.close(op, x)
        return x, op.stop

    def _terms(self, k: int, ctx: Any) -> list[tuple[Tensor, Tensor | None]]:
        """What a reused or forecast branch adds to the stream: tensors, each with its factor. The weights of a forecast
        are taken into the gate, so that the forecast itself is never formed."""
        op, gate = self.ops[k], self.backbone.gate(k, ctx)
        if gate is None:
            return [(self.cache.take(k, op), None)]
        return [(x, gate if weight is None else gate * weight) for x, weight in self.cache.taken(k, op)]


class Planned(Policy):
    """A plan on a backbone. Given `tensors` continue a cache from a step after the first; given `weights`
    (steps, 1 or branches, J) replace those of the plan's forecasts and may carry gradients."""

    def __init__(self, backbone: Backbone, plan: Plan, tensors: dict | None = None, weights: Tensor | None = None):
        plan.check_layout(backbone.layout)
        plan.check_fixed("a fixed program")
        self.backbone, self.plan = backbone, plan
        self.carried = carried_skips(plan.program, backbone.layout.skips)
        self.runs = [reuse_runs(ops, backbone.joins) for ops in plan.program]
        if weights is None:
            weights = weights_of(plan, backbone.device)
        self.cache = CacheState(plan, self.carried, backbone.layout.condition_tokens, tensors, weights)

    def at(self, s: int) -> StepPolicy:
        return PlannedStep(self.backbone, self.cache.start(s), self.runs[s], self.cache)

    def group(self, s: int) -> range:
        return independent_steps(self.plan.program, s)

    def together(self, group: range, halves: int) -> StepPolicy:
        for s in group:
            ops = self.cache.start(s)
        return _Together(self.backbone, ops, self.cache, len(group), halves)

    def finish(self) -> None:
        self.cache.finish()


class _Together(StepPolicy):
    """Several steps of a plan in one batch, see `Policy.group`."""

    def __init__(self, backbone: Backbone, ops: Ops, cache: CacheState, times: int, halves: int):
        self.backbone, self.ops, self.cache, self.times, self.halves = backbone, ops, cache, times, halves
        self._skips = {k: self._repeated(v) for k, v in cache.skips.items()}

    @property
    def skips(self) -> dict[int, Tensor]:
        return self._skips

    def _repeated(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.halves, -1)).repeat(1, self.times, 1, 1).flatten(0, 1)

    def __call__(self, i, x, ctx):
        op: Op = self.ops[i]
        if op.action == COMPUTE:
            return add(x, self.backbone.delta(i, x, ctx), self.backbone.gate(i, ctx)), op.stop
        stored = self._repeated(self.cache.take(i, op))
        self.cache.reused += (self.times - 1) * (op.stop - i)
        return self.cache.with_own_condition(x, stored), op.stop


def reuse_runs(ops: Ops, joins: frozenset[int]) -> dict[int, list[int]]:
    """The runs of reused or forecast branches of a step, by first branch: no compute, join or cache store inside
    one."""
    out: dict[int, list[int]] = {}
    run: list[int] = []
    for i, op in sorted(ops.items()):
        if not op.predicts:
            run = []
            continue
        if not run or i in joins or op.opens or ops[run[-1]].closes:
            run = out.setdefault(i, [])
        run.append(i)
    return out
