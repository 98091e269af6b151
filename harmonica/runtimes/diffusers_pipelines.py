"""A plan on an unmodified diffusers pipeline: DiTPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline.

The pipeline keeps its own loop, scheduler and guidance; before each attention and MLP the blocks look the branch up in
the plan. Norms and modulation are computed by the blocks themselves, so a plan that computes everything changes
nothing, and the speed-up is slightly below that of the suite's own loop.
"""

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from harmonica.execution.cache import CacheState
from harmonica.plan import REUSE, Plan
from harmonica.utils import UserError

KINDS = {  # the modules of a block that are branches, in their order
    "DiTTransformer2DModel": ("attn1", "ff"),
    "PixArtTransformer2DModel": ("attn1", "attn2", "ff"),
}


def enable_cache(pipe, plan: Plan | str | Path):
    """Run `pipe` under a plan, or the plan in a file, from now on; returns the pipeline.

    Call the pipeline with the plan's number of steps. Raises UserError if the plan does not fit the transformer;
    the pipeline raises it later if it is called with another number of steps.
    """
    if not isinstance(plan, Plan):
        plan = Plan.load(plan)
    transformer = getattr(pipe, "transformer", None)
    kinds = KINDS.get(type(transformer).__name__)
    if transformer is None or kinds is None:
        raise UserError(f"{type(pipe).__name__} has no transformer of these kinds: {', '.join(KINDS)}")
    blocks = transformer.transformer_blocks
    if plan.branches != len(kinds) * len(blocks):
        raise UserError(
            f"the plan has {plan.branches} branches, but the pipeline's transformer has {len(blocks)} blocks of "
            f"{len(kinds)}: it was made for {plan.protocol.model}"
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
    """Undo `enable_cache`, if it was called; returns the pipeline."""
    cached = getattr(pipe.transformer, "_harmonica", None)
    if cached is not None:
        for module, own in cached.replaced:
            del module.forward
            if own is not None:  # another hook of the user's
                module.forward = own
        del pipe.transformer._harmonica
    return pipe


class _Cached:
    """One pipeline under a plan."""

    def __init__(self, pipe, plan: Plan, kinds: tuple[str, ...]):
        self.pipe, self.plan, self.kinds, self.cache = pipe, plan, kinds, CacheState(plan)
        self.replaced: list[tuple[nn.Module, object]] = []  # modules, and the hooks they already had
        transformer = pipe.transformer
        for b, block in enumerate(transformer.transformer_blocks):
            for k, kind in enumerate(self.kinds):
                self._replace(getattr(block, kind), self.branch, len(self.kinds) * b + k)
            self._replace(block, self.block, len(self.kinds) * b)
        self._replace(transformer, self.evaluate)

    def _replace(self, module: nn.Module, call, *about) -> None:
        self.replaced.append((module, module.__dict__.get("forward")))
        module.forward = partial(call, module.forward, *about)

    def evaluate(self, forward, *args, timestep: Tensor, **more):
        """The transformer at one step of the plan, found by the timestep's index in the scheduler."""
        times = self.pipe.scheduler.timesteps
        if len(times) != self.plan.steps:
            raise UserError(
                f"the plan is for {self.plan.steps} steps, but the pipeline runs {len(times)}: pass "
                f"num_inference_steps={self.plan.steps}, or make another plan"
            )
        at = (times.cpu() == timestep.flatten()[0].cpu()).nonzero()
        s = int(at[0]) if len(at) == 1 else None
        if s is None or s not in (0, self.cache.steps_done):
            raise UserError("the pipeline does not run its steps in order from the first, as a plan requires")
        self.ops = self.cache.start(s)
        self.until = 0  # the branch after a span that is reused
        out = forward(*args, timestep=timestep, **more)
        if s == self.plan.steps - 1:
            self.cache.finish()
        return out

    def block(self, forward, start: int, x: Tensor, *args, **more) -> Tensor:
        if start < self.until:  # inside a span that is reused
            return x
        op = last = self.ops[start]
        self.cache.open(op, x)
        if op.action > REUSE:
            self.until = op.stop
            x = self.cache.take_span(start, op, x)
        else:
            x = forward(x, *args, **more)
            last = self.ops[start + len(self.kinds) - 1]
        self.cache.close(last, x)
        return x

    def branch(self, forward, i: int, *args, **more) -> Tensor:
        op = self.ops[i]
        if op.action == REUSE:
            return self.cache.take(i, op)
        out = forward(*args, **more)
        self.cache.keep(op, out)
        return out
