"""A plan on an unmodified diffusers pipeline with a transformer of blocks: DiT, PixArt, Flux, SD3, Sana, Wan, …

The pipeline keeps its own loop, scheduler and guidance; before each attention and MLP the blocks look the branch up in
the plan. Norms and modulation are computed by the blocks themselves, so a plan that computes everything changes
nothing, and the speed-up is slightly below that of the suite's own loop.

A plan acts within calls of its pipeline: while it is enabled, the pipeline's class is a subclass of the same name whose
`__call__` checks the call and counts its steps. A loop of one's own that calls `pipe.transformer` is not cached.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmonica.plan import Plan
from harmonica.runtimes import pipeline_protocol as protocol
from harmonica.runtimes.pipeline_branches import Block, blocks_of, transformer_of, unwrapped
from harmonica.runtimes.pipeline_hooks import Evaluations, Hooks, Trajectory
from harmonica.runtimes.pipeline_plans import Planned, check_spans
from harmonica.runtimes.pipeline_rules import Ruled
from harmonica.utils import UserError


def enable_cache(pipe, plan: Plan | str | Path, allow: Collection[str] = ()):
    """Run `pipe` under a plan, or the plan in a file, from now on; returns the pipeline.

    Call the pipeline with the plan's number of steps and guidance scale. `allow` names what may differ from the plan's
    protocol: "model", "scheduler" or "guidance"; differences then only warn. Raises UserError if the plan does not fit
    transformer and scheduler; a call of the pipeline raises it for another number of steps or guidance scale, a
    scheduler or transformer put in place since, and if it did not reuse what the plan reuses. Where a pipeline's call
    has no `guidance_scale`, guidance is not checked.
    """
    if not isinstance(plan, Plan):
        plan = Plan.load(plan)
    protocol.check_names(allow)
    transformer = transformer_of(pipe)
    if getattr(transformer, "is_cache_enabled", False):
        raise UserError(f"{type(transformer).__name__} already has a cache of diffusers: disable that first")
    blocks = blocks_of(transformer)
    if plan.branches != blocks[-1].stop:
        raise UserError(
            f"the plan has {plan.branches} branches, but the pipeline's transformer has {blocks[-1].stop} in "
            f"{len(blocks)} blocks: it was made for {plan.protocol.model}"
        )
    check_spans(plan, blocks)
    protocol.check_evaluations(pipe.scheduler)
    found = protocol.model_difference(plan, transformer, type(pipe).__name__) | protocol.scheduler_difference(
        plan, pipe.scheduler
    )
    protocol.check(found, plan, allow)
    disable_cache(pipe)
    pipe._harmonica = _Cached(plan, transformer, tuple(allow))
    own: Any = type(pipe)
    pipe.__class__ = _under_plan(own)
    return pipe


def evaluations_of(blocks: tuple[Block, ...], plan: Plan) -> Evaluations:
    """What runs a plan on the blocks of a transformer."""
    return Ruled(blocks, plan) if plan.rule else Planned(blocks, plan)


def disable_cache(pipe):
    """Undo `enable_cache`, if it was called; returns the pipeline."""
    if is_cache_enabled(pipe):
        cached = pipe.__dict__.pop("_harmonica")
        pipe.__class__ = type(pipe).__base__
        cached.hooks.release(cached)
    return pipe


def is_cache_enabled(pipe) -> bool:
    """Whether the pipeline runs under a plan."""
    return "_harmonica" in vars(pipe)


@contextmanager
def cached(pipe, plan: Plan | str | Path, allow: Collection[str] = ()) -> Iterator[Any]:
    """Within this context the pipeline runs under a plan, see `enable_cache`; what it ran under before is restored."""
    before = vars(pipe).get("_harmonica")
    enable_cache(pipe, plan, allow)
    try:
        yield pipe
    finally:
        disable_cache(pipe)
        if before is not None:
            enable_cache(pipe, before.plan, before.allow)


class _Cached:
    """One pipeline under a plan."""

    def __init__(self, plan: Plan, transformer: Any, allow: tuple[str, ...]):
        self.plan, self.transformer, self.allow = plan, transformer, allow
        self.hooks = Hooks.used_by(self, transformer)

    @contextmanager
    def call(self, pipe: Any, given: dict[str, Any]) -> Iterator[None]:
        """Within this context the pipeline is called, with the arguments `given`."""
        if unwrapped(pipe.transformer) is not self.transformer:
            raise UserError("pipe.transformer was replaced after enable_cache: call enable_cache again")
        protocol.check_evaluations(pipe.scheduler)
        found = protocol.scheduler_difference(self.plan, pipe.scheduler)
        found |= protocol.guidance_difference(self.plan, given) | protocol.given_times(self.plan, given)
        protocol.check(found, self.plan, self.allow)

        def begun() -> None:
            protocol.check_steps(self.plan, pipe.scheduler)
            protocol.check(protocol.timestep_difference(self.plan, pipe.scheduler), self.plan, self.allow)

        trajectory = Trajectory(lambda: evaluations_of(self.hooks.blocks, self.plan), begun)
        with self.hooks.running(trajectory, pipe.scheduler):
            yield
        trajectory.finish()


@functools.cache
def _under_plan(cls: Any) -> Any:
    """The subclass of a pipeline's class whose calls run under the plan of their pipeline."""

    @functools.wraps(cls.__call__)
    def call(self, *args, **more):
        bound = inspect.signature(cls.__call__).bind(self, *args, **more)
        bound.apply_defaults()
        with self._harmonica.call(self, bound.arguments | more):
            return cls.__call__(self, *args, **more)

    names = {k: getattr(cls, k) for k in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__call__": call} | names)
