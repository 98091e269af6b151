"""Hooks in the blocks of a diffusers transformer, by diffusers' own means.

A block and its branches (attention, MLP) get a `ModelHook` each, in their `HookRegistry`. Hooks pass through unless a
trajectory is active, so that pipelines with different plans, or none, may share a transformer. What offloading puts
above or below a hook stays in place; a hook that it took away is put back before the next trajectory.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from harmonica.runtimes.pipeline_branches import Block, blocks_of, unwrapped
from harmonica.utils import UserError

NAME = "harmonica_plan"  # of the hooks in a registry

Streams = tuple[Tensor, ...]  # of a block, (B, N, D) each


class Evaluations:
    """The evaluations of a transformer in one trajectory, a step each. A subclass says what is done before and after
    every block and branch; here everything is computed."""

    def __init__(self, blocks: tuple[Block, ...], steps: int):
        self.blocks, self.steps = blocks, steps
        self.begun = 0  # steps
        self._reached = blocks[-1].stop  # the branch that the current step goes on with
        self._called: list[int] = []  # branches of the current block
        self._before: Streams = ()  # of the current block
        self._form: dict[int, Any] = {}  # what a block returned first, without its tensors

    @torch.compiler.disable
    def enter_block(self, b: Block, args: tuple, more: dict[str, Any], forward: Callable[..., Any]) -> Any:
        """Before a block: what it returns if it is not to run, else None."""
        self._before = b.taken(args, more)
        if b.start == 0:
            self._next_step()
        elif b.start != self._reached:
            raise lost(f"branch {b.start} was called in place of {self._reached}")
        self._reached, self._called = b.stop, []
        after = self.before(b, self._before, lambda: forward(*args, **more))
        return None if after is None else b.returned(after, self._form[b.start])

    def _next_step(self) -> None:
        if self._reached != self.blocks[-1].stop:
            raise lost(f"step {self.begun} ended at branch {self._reached} of {self.blocks[-1].stop}")
        if self.begun == self.steps:
            raise UserError(
                f"the pipeline evaluates its transformer more than {self.steps} times in one call: a plan of "
                f"{self.steps} steps is for as many evaluations"
            )
        self.begun += 1
        self.step(self.begun - 1, self._before)

    @torch.compiler.disable
    def leave_block(self, b: Block, out: Any) -> Any:
        """After a block that ran: what it returns."""
        if b.branches and self._called != list(range(b.start, b.stop)):
            raise lost(f"{b.name} called the branches {self._called} in place of {b.start} to {b.stop - 1}")
        if b.start not in self._form:
            self._form[b.start] = out if isinstance(out, Tensor) else (None,) * len(out)
        return self.after(b, self._before, out)

    @torch.compiler.disable
    def enter_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        """Before branch `i`: what it returns if it is not to run, else None."""
        self._called.append(i)
        return self.before_branch(i, args, more)

    @torch.compiler.disable
    def leave_branch(self, i: int, out: Any) -> Any:
        """After a branch that ran: what it returns."""
        return self.after_branch(i, out)

    def step(self, s: int, streams: Streams) -> None:
        """Step `s` begins, with the streams before the first block."""

    def before(self, b: Block, streams: Streams, run: Callable[[], Any]) -> Streams | None:
        """The streams after a block that is not to run, else None; `run` would run it."""
        return None

    def after(self, b: Block, before: Streams, out: Any) -> Any:
        """What a block returns that ran."""
        return out

    def before_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        """What a branch returns that is not to run, else None."""
        return None

    def after_branch(self, i: int, out: Any) -> Any:
        """What a branch returns that ran."""
        return out

    def finish(self) -> None:
        """Raise UserError unless all steps ran."""
        if self.begun != self.steps:
            raise UserError(f"{self.begun} of the plan's {self.steps} steps ran; aborting")


class Trajectory:
    """One call of a pipeline. `new` makes the `Evaluations` of every place in a step: a pipeline evaluates its
    transformer once a step, with both guidance halves in one batch, or once for each half. `begun` is called at the
    first evaluation."""

    def __init__(self, new: Callable[[], Evaluations], begun: Callable[[], None] = lambda: None):
        self.new, self.begun = new, begun
        self.all: list[Evaluations] = []
        self.latents: Tensor | None = None  # after the last step
        self._times: list[Any] = []  # of the first evaluation, and the end of the last step
        self._place = 0  # of the next evaluation in its step

    @property
    def now(self) -> Evaluations:
        """Those that the current evaluation belongs to."""
        if not self._place:
            raise lost("a block or branch was called out of turn")
        return self.all[self._place - 1]

    def evaluate(self) -> None:
        """An evaluation begins, at the first block."""
        if not self.all:
            self.begun()
            self._times = [_now()]
        if self._place == len(self.all):
            self.all.append(self.new())
        self._place += 1

    def stepped(self, out: Any) -> None:
        """The scheduler made its step, and returned `out`."""
        self._place = 0
        self.latents = out[0] if isinstance(out, tuple) else out.prev_sample
        self._times[1:] = [_now()]

    @property
    def seconds(self) -> float:
        """From the first evaluation to the end of the last step: without text encoder and decoder."""
        first, last = self._times
        if isinstance(first, float):
            return last - first
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def finish(self) -> None:
        """Raise UserError unless the call went as planned."""
        if not self.all:
            raise lost("no block was called under the plan")
        for evaluations in self.all:
            evaluations.finish()


def _now() -> Any:
    """A mark in time, on a GPU one among the work that is queued there."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record()
    return mark


def lost(what: str) -> UserError:
    """The error for a transformer whose hooks were not called as they should."""
    return UserError(
        f"{what}; aborting: the transformer does not run the hooks of the cache. If it was compiled before, compile "
        "it after enable_cache"
    )


class _Hook(ModelHook):
    """Runs a block, or a branch of it, under the active trajectory."""

    def __init__(self, hooks: Hooks, block: Block, branch: int | None):
        super().__init__()
        self.hooks, self.block, self.branch, self.retired = hooks, block, branch, False

    @torch.compiler.disable(recursive=False)  # what it calls may still be compiled
    def new_forward(self, module: nn.Module, *args: Any, **more: Any) -> Any:
        forward, trajectory = self.fn_ref.original_forward, self.hooks.active()
        if trajectory is None or self.retired:
            return forward(*args, **more)
        if self.branch is None:
            if self.block.start == 0:
                trajectory.evaluate()
            run = trajectory.now
            out = run.enter_block(self.block, args, more, forward)
            return run.leave_block(self.block, forward(*args, **more)) if out is None else out
        run = trajectory.now
        out = run.enter_branch(self.branch, args, more)
        return run.leave_branch(self.branch, forward(*args, **more)) if out is None else out


class _Place:
    """A hook in the registry of its module, to be put back or removed whatever else was put above it."""

    def __init__(self, module: Any, hooks: Hooks, block: Block, branch: int | None = None):
        self.module, self.about = module, (hooks, block, branch)
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
        self.transformer, self.blocks = transformer, blocks_of(transformer)
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
        for block in self.blocks:
            for k, name in enumerate(block.branches):
                self.places.append(_Place(unwrapped(getattr(block.module, name)), self, block, block.start + k))
            self.places.append(_Place(block.module, self, block))

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
    def running(self, trajectory: Trajectory, scheduler: Any) -> Iterator[None]:
        """Within this context, evaluations of the transformer are steps of a trajectory, from its first on; `scheduler`
        is what ends a step."""
        for place in self.places:
            place.ensure()
        token = self._active.set(trajectory)
        try:
            with _watched(scheduler, trajectory.stepped):
                yield
        finally:
            self._active.reset(token)


@contextmanager
def _watched(scheduler: Any, stepped: Callable[[Any], None]) -> Iterator[None]:
    """Within this context, `stepped` is called with what every step of a scheduler returns."""
    before = vars(scheduler).get("step")
    own = scheduler.step

    @functools.wraps(own)
    def step(*args: Any, **more: Any) -> Any:
        out = own(*args, **more)
        stepped(out)
        return out

    scheduler.step = step
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before
