"""A plan on an unmodified diffusers pipeline: DiTPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline.

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
from harmonica.plan.program import SPANS
from harmonica.runtimes import pipeline_protocol as protocol
from harmonica.runtimes.pipeline_hooks import KINDS, Hooks, Trajectory, unwrapped
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
    plan.check_fixed("a cache of diffusers' pipelines")
    protocol.check_names(allow)
    transformer = unwrapped(getattr(pipe, "transformer", None))
    kinds = KINDS.get(type(transformer).__name__)
    if kinds is None:
        raise UserError(f"{type(pipe).__name__} has no transformer of these kinds: {', '.join(KINDS)}")
    if getattr(transformer, "is_cache_enabled", False):
        raise UserError(f"{type(transformer).__name__} already has a cache of diffusers: disable that first")
    blocks = len(transformer.transformer_blocks)
    if plan.branches != len(kinds) * blocks:
        raise UserError(
            f"the plan has {plan.branches} branches, but the pipeline's transformer has {blocks} blocks of "
            f"{len(kinds)}: it was made for {plan.protocol.model}"
        )
    for ops in plan.program:
        for start, op in ops.items():
            for a, b in [(start, op.stop)] * (op.action in SPANS) + [*op.opens]:
                if a % len(kinds) or b % len(kinds):
                    raise UserError("the plan caches a span that is not made of whole blocks: use `harmonica sample`")
    protocol.check_evaluations(pipe.scheduler)
    found = protocol.model_difference(plan, transformer) | protocol.scheduler_difference(plan, pipe.scheduler)
    protocol.check(found, plan, allow)
    disable_cache(pipe)
    pipe._harmonica = _Cached(plan, transformer, tuple(allow))
    own: Any = type(pipe)
    pipe.__class__ = _under_plan(own)
    return pipe


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
        protocol.check(
            found | protocol.guidance_difference(self.plan, given.get("guidance_scale")), self.plan, self.allow
        )

        def begun() -> None:
            protocol.check_steps(self.plan, pipe.scheduler)
            protocol.check(protocol.timestep_difference(self.plan, pipe.scheduler), self.plan, self.allow)

        trajectory = Trajectory(self.plan, len(self.hooks.kinds), begun)
        with self.hooks.running(trajectory):
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
