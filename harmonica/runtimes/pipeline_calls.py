"""Calls of a diffusers pipeline for measurements: images by number, their final latents, and what its transformer did.

Image k has the k-th prompt, the first after the last, and a generator of its own, so that it does not depend on what
else is generated. One call makes one image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harmonica.models.state_dicts import brief
from harmonica.plan import BranchLayout, Plan, Protocol
from harmonica.runtimes.diffusers_pipelines import evaluations_of, is_cache_enabled
from harmonica.runtimes.pipeline_branches import WHOLE, Block, blocks_of, transformer_of
from harmonica.runtimes.pipeline_hooks import Evaluations, Hooks, Streams, Trajectory
from harmonica.runtimes.pipeline_plans import check_spans
from harmonica.runtimes.pipeline_protocol import (
    GUIDANCE,
    TIMES,
    check_evaluations,
    guidance_of,
    identity,
    scheduler_settings,
)
from harmonica.runtimes.pipeline_rules import Ruled
from harmonica.runtimes.pipeline_rules import skipped as skipped_by
from harmonica.utils import UserError

CALIBRATION = 1  # the stream of seeds of images that methods learn from; that of others is 0
CONDITIONS = ("prompt", "class_labels")  # the argument of a call that a prompt is given to
OWN = (*CONDITIONS, "num_inference_steps", "generator", "return_dict", "callback_on_step_end", *TIMES)


@dataclass(frozen=True, eq=False)
class Calls:
    """A pipeline, and how it is called: prompts (class labels for a pipeline of classes), the protocol's steps and
    guidance scale, and further `arguments`. Raises UserError for a pipeline that plans do not run on."""

    pipe: Any
    protocol: Protocol
    prompts: tuple[str, ...]
    arguments: dict[str, Any]

    @staticmethod
    def of(
        pipe: Any, prompts: Sequence[str], steps: int, cfg: float | None = None, arguments: dict[str, Any] | None = None
    ) -> Calls:
        """The calls of a pipeline with as many steps. `cfg` is the guidance scale, by default that of the pipeline's
        call; `arguments` are further arguments of every call."""
        transformer = transformer_of(pipe)
        blocks_of(transformer)
        if is_cache_enabled(pipe) or getattr(transformer, "is_cache_enabled", False):
            raise UserError(f"{type(pipe).__name__} already runs under a cache: disable that first")
        if not prompts:
            raise UserError("there are no prompts")
        if steps < 1 or (cfg is not None and not np.isfinite(cfg)):
            raise UserError(f"a call has at least one step and a finite guidance scale, got steps {steps} and {cfg}")
        check_evaluations(pipe.scheduler)
        given = dict(arguments or {})
        known = inspect.signature(pipe.__call__).parameters
        for name in given:
            if name not in known:
                raise UserError(f"a call of {type(pipe).__name__} has no argument {name!r}")
            if name in OWN:
                raise UserError(f"{name} of the calls is set by options and prompts, not as a further argument")
        defaults = {k: p.default for k, p in known.items() if p.default is not p.empty} | given
        if cfg is not None:
            scale = next((k for k in GUIDANCE if defaults.get(k) is not None), None)
            if scale is None:
                raise UserError(f"a call of {type(pipe).__name__} has no guidance scale")
            given[scale] = defaults[scale] = cfg
        try:
            scales = [*guidance_of(defaults).values(), 1.0, 1.0]
        except (TypeError, ValueError):
            raise UserError(f"the guidance scales of a call are numbers, got {given}") from None
        protocol = Protocol(
            identity(transformer), type(pipe.scheduler).__name__, steps, scales[0],
            scheduler=scheduler_settings(pipe.scheduler), true_cfg=scales[1],
        )  # fmt: skip
        return Calls(pipe, protocol, tuple(prompts), given)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return blocks_of(transformer_of(self.pipe))

    def run(
        self, k: int, new: Callable[[], Evaluations], seed: int = 0, stream: int = 0, steps: int | None = None, **more
    ) -> tuple[Any, Trajectory]:
        """What the pipeline returns for image `k`, and its trajectory; `new` makes what runs its blocks. `more` are
        arguments of this call."""
        trajectory = Trajectory(new)
        state = np.random.SeedSequence([seed, stream, k]).generate_state(1)[0]
        given = {"generator": torch.Generator().manual_seed(int(state)), "return_dict": False}
        known = inspect.signature(self.pipe.__call__).parameters
        if "output_type" in known:
            given["output_type"] = "latent"
        hooks = Hooks.used_by(self, transformer_of(self.pipe))
        try:
            with hooks.running(trajectory, self.pipe.scheduler), _quiet(self.pipe), torch.inference_mode():
                out = self.pipe(
                    **self._condition(k, known), num_inference_steps=steps or self.protocol.steps,
                    **given | self.arguments | more,
                )[0]  # fmt: skip
        except (TypeError, ValueError) as e:
            why = f"{type(e).__name__}: {brief(e)}"
            raise UserError(f"{type(self.pipe).__name__} cannot be called with these arguments ({why})") from e
        finally:
            hooks.release(self)
        trajectory.finish()
        return out, trajectory

    def _condition(self, k: int, known: Iterable[str]) -> dict[str, Any]:
        """The argument that names what image `k` shows."""
        prompt = self.prompts[k % len(self.prompts)]
        name = next((c for c in CONDITIONS if c in known), None)
        if name is None:
            raise UserError(f"a call of {type(self.pipe).__name__} takes none of {', '.join(CONDITIONS)}")
        if name == "prompt":
            return {} if "prompt_embeds" in self.arguments else {name: prompt}
        if not prompt.strip().isdecimal():
            raise UserError(f"{type(self.pipe).__name__} takes class labels, and {prompt[:40]!r} is none")
        return {name: [int(prompt)]}

    def latents(self, images: Iterable[int], plan: Plan | None = None, seed: int = 0, stream: int = 0) -> Tensor:
        """Final latents (n, …) of images, float32 on the host, under a plan, or of the uncached pipeline. Raises
        UserError for latents that are not finite."""
        if plan is not None:
            self.check(plan)
        out = []
        for k in images:
            _, trajectory = self.run(k, lambda: self.evaluations(plan), seed, stream)
            assert trajectory.latents is not None
            x = trajectory.latents.float().cpu()[:1]  # DiT's pipeline keeps both guidance halves
            if not torch.isfinite(x).all():
                raise UserError(f"latents of {type(self.pipe).__name__} are not finite: precision or weights are wrong")
            out.append(x)
        return torch.cat(out)

    def skipped(self, images: Iterable[int], plan: Plan, seed: int = 0, stream: int = 0) -> Tensor:
        """What every sequence of images skipped under a plan with a rule, bool (sequences, steps)."""
        self.check(plan)
        out = []
        for k in images:
            _, trajectory = self.run(k, lambda: self.evaluations(plan), seed, stream)
            out.append(skipped_by([e for e in trajectory.all if isinstance(e, Ruled)]))
        return torch.cat(out)

    def check(self, plan: Plan) -> None:
        """Raise UserError for a plan that does not fit the transformer."""
        plan.check_layout(self.layout)
        check_spans(plan, self.blocks)

    def evaluations(self, plan: Plan | None, steps: int | None = None) -> Evaluations:
        """What runs the blocks under a plan, or computes all of them, at so many steps."""
        if plan is None:
            return Evaluations(self.blocks, steps or self.protocol.steps)
        return evaluations_of(self.blocks, plan)

    @cached_property
    def layout(self) -> BranchLayout:
        """The branches of the transformer and their MACs for one sequence, counted in one evaluation."""
        transformer = transformer_of(self.pipe)
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            counting = _Counting(self.blocks, self.protocol.steps, counter.get_total_flops)
            handles = [
                transformer.register_forward_pre_hook(lambda *_: counting.begin()),
                transformer.register_forward_hook(lambda *_: counting.end()),
            ]
            try:
                self.run(0, lambda: counting)
            except _Counted:
                pass
            finally:
                for handle in handles:
                    handle.remove()
        macs = np.array([counting.macs.get(i, 0.0) for i in range(self.blocks[-1].stop)]) / counting.sequences
        return BranchLayout(
            name=self.protocol.model,
            branches=tuple(f"{b.name} / {kind}" for b in self.blocks for kind in b.branches or (WHOLE,)),
            branch_macs=macs,
            other_macs=counting.total / counting.sequences - float(macs.sum()),
            stream_elements=counting.elements,
            tokens=counting.tokens,
            parameters=sum(p.numel() for p in transformer.parameters()),
        )


class _Counted(Exception):
    """An evaluation was counted: the pipeline need not go on."""


class _Counting(Evaluations):
    """Counts the MACs of branches in one evaluation."""

    def __init__(self, blocks: tuple[Block, ...], steps: int, flops: Callable[[], int]):
        super().__init__(blocks, steps)
        self.macs: dict[int, float] = {}
        self.total, self._flops, self._at, self._begun = 0.0, flops, 0, 0

    def begin(self) -> None:
        self._begun = self._flops()

    def end(self) -> None:
        self.total = (self._flops() - self._begun) / 2
        raise _Counted

    def step(self, s: int, streams: Streams) -> None:
        self.sequences, self.tokens = len(streams[0]), streams[0].shape[1]
        self.elements = streams[0][0].numel()

    def before(self, b: Block, streams: Streams, run: Callable[[], Any]) -> Streams | None:
        if not b.branches:
            self._at = self._flops()
        return None

    def after(self, b: Block, before: Streams, out: Any) -> Any:
        if not b.branches:
            self.macs[b.start] = (self._flops() - self._at) / 2
        return out

    def before_branch(self, i: int, args: tuple, more: dict[str, Any]) -> Any:
        self._at = self._flops()
        return None

    def after_branch(self, i: int, out: Any) -> Any:
        self.macs[i] = (self._flops() - self._at) / 2
        return out


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Within this context the pipeline shows no progress bar of its own."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**before | {"disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
