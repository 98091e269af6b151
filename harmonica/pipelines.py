"""A plan on an unmodified diffusers pipeline: DiTPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline.

The pipeline keeps its own loop, scheduler and guidance; the transformer's blocks ask the plan before each attention and
MLP. Norms and modulation are computed by the blocks themselves, so that with a plan that computes everything nothing
differs, and the speed-up is a little less than that of the suite's own loop.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from harmonica.errors import UserError
from harmonica.plan import COMPUTE, REUSE, SPAN_DELTA, Plan

KINDS = {  # the modules of a block that are branches, in their order
    "DiTTransformer2DModel": ("attn1", "ff"),
    "PixArtTransformer2DModel": ("attn1", "attn2", "ff"),
}


def enable_cache(pipe, plan: Plan | str | Path):
    """Run `pipe` under a plan (or the plan in a file) from now on; returns the pipeline.

    Call it with as many steps as the plan has. Raises UserError for a plan that does not fit the transformer, and, when
    the pipeline is called, for another number of steps.
    """
    if not isinstance(plan, Plan):
        plan = Plan.load(plan)
    transformer = getattr(pipe, "transformer", None)
    kinds = KINDS.get(type(transformer).__name__)
    if kinds is None:
        raise UserError(f"{type(pipe).__name__} has no transformer of these kinds: {', '.join(KINDS)}")
    blocks = transformer.transformer_blocks
    if plan.branches != len(kinds) * len(blocks):
        raise UserError(
            f"the plan has {plan.branches} branches, but the pipeline's transformer has {len(blocks)} blocks of "
            f"{len(kinds)}: it was made for {plan.origin.model}"
        )
    for ops in plan.program:
        for start, op in ops.items():
            for a, b in [(start, op.stop)] * (op.action > REUSE) + [*op.opens]:
                if a % len(kinds) or b % len(kinds):
                    raise UserError("the plan caches a span that is not made of whole blocks: use `harmonica sample`")
    disable_cache(pipe)
    transformer._harmonica = _Cached(pipe, plan, kinds)
    return pipe


def disable_cache(pipe):
    """Undo `enable_cache`, if there was one; returns the pipeline."""
    cached = getattr(pipe.transformer, "_harmonica", None)
    if cached is not None:
        for module, own in cached.replaced:
            del module.forward
            if own is not None:  # another hook of the user's
                module.forward = own
        del pipe.transformer._harmonica
    return pipe


@dataclass
class _Cached:
    """The state of one pipeline under a plan."""

    pipe: object
    plan: Plan
    kinds: tuple[str, ...]
    cache: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    step: int = -1  # the one that was run last
    reused: int = 0
    replaced: list[tuple[nn.Module, object]] = field(default_factory=list)

    def __post_init__(self):
        transformer = self.pipe.transformer
        for b, block in enumerate(transformer.transformer_blocks):
            for k, kind in enumerate(self.kinds):
                self._replace(getattr(block, kind), self.branch, len(self.kinds) * b + k)
            self._replace(block, self.block, len(self.kinds) * b)
        self._replace(transformer, self.evaluate)

    def _replace(self, module: nn.Module, call, *about) -> None:
        self.replaced.append((module, module.__dict__.get("forward")))
        module.forward = partial(call, module.forward, *about)

    def evaluate(self, forward, *args, timestep: Tensor, **more):
        """The transformer: one step of the plan, told by the timestep's place in the scheduler's list."""
        times = self.pipe.scheduler.timesteps
        if len(times) != self.plan.steps:
            raise UserError(
                f"the plan is for {self.plan.steps} steps, but the pipeline runs {len(times)}: pass "
                f"num_inference_steps={self.plan.steps}, or make another plan"
            )
        at = (times.cpu() == timestep.flatten()[0].cpu()).nonzero()
        s = int(at[0]) if len(at) == 1 else None
        if s == 0:
            self.cache, self.reused = {}, 0
        elif s is None or s != self.step + 1:
            raise UserError("the pipeline does not run its steps one after the other, from the first on: a plan must")
        self.step, self.ops, self.until, self.open = s, self.plan.program[s], 0, {}
        out = forward(*args, timestep=timestep, **more)
        if s == self.plan.steps - 1:
            self._check()
        return out

    def _check(self) -> None:
        """Raise UserError unless the run reused what the plan says."""
        cur = 100 * self.reused / self.plan.actions.size
        if abs(cur - self.plan.cur) > 1e-9:
            raise UserError(f"the run reused {cur:.2f} % of the branches, but the plan says {self.plan.cur:.2f} %")

    def block(self, forward, start: int, x: Tensor, *args, **more) -> Tensor:
        if start < self.until:  # inside a span that is reused
            return x
        op = self.ops[start]
        for span in op.opens:
            self.open[span] = x
        if op.action > REUSE:
            stored = self._take(op.action, start, op)
            self.until = op.stop
            x = x + stored if op.action == SPAN_DELTA else stored
            last = op
        else:
            x = forward(x, *args, **more)
            last = self.ops[start + len(self.kinds) - 1]
        for key in last.closes:
            self.cache[key] = x - self.open[key[1:]] if key[0] == SPAN_DELTA else x
        return x

    def branch(self, forward, i: int, *args, **more) -> Tensor:
        op = self.ops[i]
        if op.action == COMPUTE:
            out = forward(*args, **more)
            if op.store:
                self.cache[REUSE, i, op.stop] = out
            return out
        return self._take(REUSE, i, op)

    def _take(self, action: int, start: int, op) -> Tensor:
        self.reused += op.stop - start
        key = (action, start, op.stop)
        return self.cache.pop(key) if op.drop else self.cache[key]
