"""A plan inside the blocks of a diffusers transformer, by diffusers' own hooks.

A block and its branches (attention, MLP) get a `ModelHook` each, in their `HookRegistry`. Hooks pass through unless a
trajectory is active, so that pipelines with different plans, or none, may share a transformer. What offloading puts
above or below a hook stays in place; a hook that it took away is put back before the next trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from harmonica.execution.cache import CacheState, weights_of
from harmonica.plan import COMPUTE, Plan
from harmonica.plan.program import SPANS, Ops
from harmonica.utils import UserError

NAME = "harmonica_plan"  # of the hooks in a registry
KINDS = {  # the modules of a block that are branches, in their order
    "DiTTransformer2DModel": ("attn1", "ff"),
    "PixArtTransformer2DModel": ("attn1", "attn2", "ff"),
}


def unwrapped(module: Any) -> Any:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


class Trajectory:
    """One call of a pipeline under a plan; its steps are counted. `begun` is called at the first evaluation."""

    def __init__(self, plan: Plan, per_block: int, begun: Callable[[], None]):
        self.plan, self.per_block, self.begun = plan, per_block, begun
        self.steps = 0  # begun
        self.reached = plan.branches  # the branch that the current step goes on with
        self.until = 0  # the branch after a span that is reused
        self.ops: Ops = {}

    def _step(self, device: torch.device) -> None:
        """Begin the next step, at the first block; the device is that of the stream."""
        if self.reached != self.plan.branches:
            raise _lost(f"step {self.steps} ended at branch {self.reached} of {self.plan.branches}")
        if self.steps == 0:
            self.begun()
            self.cache = CacheState(self.plan, weights=weights_of(self.plan, device))
        if self.steps == self.plan.steps:
            raise UserError(
                f"the pipeline evaluates its transformer more than {self.plan.steps} times in one call: a plan of "
                f"{self.plan.steps} steps is for as many evaluations"
            )
        self.ops = self.cache.start(self.steps)
        self.steps, self.reached, self.until = self.steps + 1, 0, 0

    @torch.compiler.disable
    def enter_block(self, start: int, x: Tensor) -> Tensor | None:
        """Before the block whose first branch is `start`, with the stream x (B, N, D): the stream after it, if it is in
        a span that is reused; None if it is to run."""
        if start == 0:
            self._step(x.device)
        elif start != self.reached:
            raise _lost(f"branch {start} was called in place of {self.reached}")
        self.reached = start + self.per_block
        if start < self.until:
            return x
        op = self.ops[start]
        self.cache.open(op, x)
        if op.action not in SPANS:
            return None
        self.until = op.stop
        x = self.cache.take_span(start, op, x)
        self.cache.close(op, x)
        return x

    @torch.compiler.disable
    def leave_block(self, start: int, x: Tensor) -> Tensor:
        """After a block that ran, with the new stream."""
        self.cache.close(self.ops[start + self.per_block - 1], x)
        return x

    @torch.compiler.disable
    def enter_branch(self, i: int) -> Tensor | None:
        """Before branch `i`: its cached output, None if it is to run."""
        op = self.ops.get(i)
        if op is None:
            raise _lost(f"branch {i} was called outside its block")
        if op.action == COMPUTE:
            return None
        try:
            return self.cache.take(i, op)
        except KeyError:
            raise _lost(f"nothing was cached for branch {i}") from None

    @torch.compiler.disable
    def leave_branch(self, i: int, delta: Tensor) -> Tensor:
        """After a branch that ran, with its output."""
        self.cache.keep(self.ops[i], delta)
        return delta

    def finish(self) -> None:
        """Raise UserError unless the call ran and reused as planned."""
        if not self.steps:
            raise _lost("no block was called under the plan")
        self.cache.finish()


def _lost(what: str) -> UserError:
    return UserError(
        f"{what}; aborting: the transformer does not run the hooks of the cache. If it was compiled before, compile "
        "it after enable_cache"
    )


class _Hook(ModelHook):
    """Runs a block, or a branch, under the active trajectory."""

    def __init__(self, hooks: Hooks, number: int, whole: bool):
        super().__init__()
        self.hooks, self.number, self.whole, self.retired = hooks, number, whole, False

    @torch.compiler.disable(recursive=False)  # what it calls may still be compiled
    def new_forward(self, module: nn.Module, *args: Any, **more: Any) -> Any:
        forward, run, number = self.fn_ref.original_forward, self.hooks.active(), self.number
        if run is None or self.retired:
            return forward(*args, **more)
        if self.whole:
            out = run.enter_block(number, args[0] if args else more["hidden_states"])
            return run.leave_block(number, forward(*args, **more)) if out is None else out
        out = run.enter_branch(number)
        return run.leave_branch(number, forward(*args, **more)) if out is None else out


class _Place:
    """A hook in the registry of its module, to be put back or removed whatever else was put above it."""

    def __init__(self, module: Any, hooks: Hooks, number: int, whole: bool):
        self.module, self.about = module, (hooks, number, whole)
        self.bare = "_diffusers_hook" not in module.__dict__  # whether the registry is ours
        self._register()

    def _register(self) -> None:
        self.hook = _Hook(*self.about)
        self.had_own = "forward" in self.module.__dict__
        HookRegistry.check_if_exists_or_initialize(self.module).register_hook(self.hook, NAME)
        self.forward = self.module.forward

    def ensure(self) -> None:
        """Register the hook again if an older `forward` was put back, as the removal of accelerate's hooks does."""
        called: Any = self.module.forward
        while called is not None and called is not self.forward:
            called = getattr(called, "__wrapped__", None)
        if called is None:
            self._take_out()
            self._register()

    def _take_out(self) -> None:
        """Take the hook out of the registry, and leave `forward` to what is above it."""
        above, below = self.module.__dict__.get("forward"), self.hook.fn_ref.original_forward
        self.hook.retired = True  # if something above still calls it
        self.module._diffusers_hook.remove_hook(NAME, recurse=False)
        if above is None or (above is self.forward and not self.had_own):
            self.module.__dict__.pop("forward", None)
        elif above is not self.forward:
            self.module.forward = above
            if self.module.__dict__.get("_old_forward") is self.forward:  # accelerate's hook above ours
                self.module._old_forward = below

    def remove(self) -> None:
        """As if the hook had never been there."""
        self._take_out()
        if self.bare and not self.module._diffusers_hook.hooks:
            del self.module._diffusers_hook


class Hooks:
    """The hooks in a transformer, shared by all pipelines that use it under a plan."""

    def __init__(self, transformer: Any):
        self.transformer, self.kinds = transformer, KINDS[type(transformer).__name__]
        self._active: ContextVar[Trajectory | None] = ContextVar("active", default=None)  # threads have their own
        self.users: WeakSet[Any] = WeakSet()
        self.places: list[_Place] = []

    @staticmethod
    def used_by(user: Any, transformer: Any) -> Hooks:
        """Those of a transformer, installed if it has none."""
        hooks = transformer.__dict__.get("_harmonica")
        if hooks is None:
            hooks = Hooks(transformer)
            hooks.install()
            transformer._harmonica = hooks
        hooks.users.add(user)
        return hooks

    def install(self) -> None:
        """Register a hook for every block and branch."""
        for b, block in enumerate(map(unwrapped, self.transformer.transformer_blocks)):
            for k, kind in enumerate(self.kinds):
                module = unwrapped(getattr(block, kind))
                self.places.append(_Place(module, self, len(self.kinds) * b + k, whole=False))
            self.places.append(_Place(block, self, len(self.kinds) * b, whole=True))

    def release(self, user: Any) -> None:
        """Remove the hooks if nobody else uses them."""
        self.users.discard(user)
        if self.users:
            return
        for place in reversed(self.places):
            place.remove()
        del self.transformer._harmonica

    @torch.compiler.disable
    def active(self) -> Trajectory | None:
        """The trajectory that the transformer's evaluations belong to."""
        return self._active.get()

    @contextmanager
    def running(self, trajectory: Trajectory) -> Iterator[None]:
        """Within this context, evaluations of the transformer are steps of a trajectory, from its first on."""
        for place in self.places:
            place.ensure()
        token = self._active.set(trajectory)
        try:
            yield
        finally:
            self._active.reset(token)
