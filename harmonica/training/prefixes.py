"""Trajectories that begin alike: one that is to be judged continues from the step at which its plan parts from that of
an earlier one. A search moves one key step at a time, so about half of what it would compute is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harmonica.backbones.base import Backbone
from harmonica.execution import Planned, Run
from harmonica.execution.denoise import denoise
from harmonica.plan import Plan
from harmonica.plan.program import SPAN_TIMED, Key, live_keys, provides
from harmonica.samplers import Sampler
from harmonica.training.starts import Start

KEPT = 4  # trajectories that are remembered, those that were continued last
BYTES = 2**30  # of tensors that all of them hold; a trajectory that is longer is remembered to its step before that


class Point(NamedTuple):
    """A trajectory before a step: the sampler's state (n, C·(1 + memory), H, W), the cached tensors (2n, N, D), those
    that were dropped and another plan may still take among them, and the branches reused so far."""

    state: Tensor
    tensors: dict[Key, Tensor]
    reused: int


@dataclass
class Path:
    """A trajectory that was run: points before its first steps, and what it did at them."""

    plan: Plan
    runs: list[dict[int, list[int]]]
    points: list[Point]

    def continued(self, plan: Plan, policy: Planned, live: list[frozenset[Key]]) -> int:
        """The last step before which a trajectory under `plan` is this one and the tensors that it has `live` are
        there; 0 if there is none."""
        last = min(_equal_rows(self.plan, plan), len(self.points) - 1)
        for s in range(last, 0, -1):
            there = self.points[s].tensors.keys() >= live[s] and not policy.carried[s - 1]
            if there and self.runs[:s] == policy.runs[:s]:
                return s
        return 0

    @property
    def nbytes(self) -> int:
        """Of all its points, which share tensors."""
        return sum({id(t): t.nbytes for p in self.points for t in (p.state, *p.tensors.values())}.values())


class Prefixes:
    """Final latents under one plan after another, from the same start."""

    def __init__(self, backbone: Backbone, start: Start, nbytes: float = BYTES):
        self.backbone, self.start, self.nbytes = backbone, start, nbytes
        self.steps_run = 0  # of all trajectories
        self._paths: list[Path] = []  # the last used first

    @torch.inference_mode()
    def latents(self, plan: Plan) -> Tensor:
        """Latents (n, C, H, W), equal to the bit to those of a whole run. Raises UserError as `Run` does."""
        run = Run(self.backbone, plan, self.start.model.labels)
        policy = run.policy
        if not isinstance(policy, Planned) or plan.protocol.prior_noise or (plan.actions == SPAN_TIMED).any():
            self.steps_run += plan.steps
            return run(self.start.noise, self.start.seeds)
        live = live_keys(plan.program)
        points = self._known(plan, policy, live) or [Point(run.sampler.begin(self.start.noise), {}, 0)]
        s = len(points) - 1
        if s:
            policy.cache.resume(s, {key: points[s].tensors[key] for key in live[s]}, points[s].reused)
        passing = _Passing(run.sampler, policy, points, self.nbytes)
        latents = denoise(passing, points[s].state, run.output(run.sampler), s, self.start.seeds)
        policy.finish()
        self.steps_run += plan.steps - s
        self._paths.insert(0, Path(plan, policy.runs, points))
        self._forget()
        return latents

    def _known(self, plan: Plan, policy: Planned, live: list[frozenset[Key]]) -> list[Point]:
        """The points of the path that goes furthest with the plan; it counts as used."""
        found = [path.continued(plan, policy, live) for path in self._paths]
        if not any(found):
            return []
        path = self._paths.pop(int(np.argmax(found)))
        self._paths.insert(0, path)
        return path.points[: max(found) + 1]

    def _forget(self) -> None:
        del self._paths[KEPT:]
        while len(self._paths) > 1 and sum(p.nbytes for p in self._paths) > self.nbytes:
            self._paths.pop()


class _Passing(Sampler):
    """A sampler that adds a point after every step, until what they hold is more than `nbytes`."""

    def __init__(self, sampler: Sampler, policy: Planned, points: list[Point], nbytes: float):
        self.sampler, self.policy, self.points, self.left = sampler, policy, points, nbytes
        self.steps, self.timesteps, self.memory = sampler.steps, sampler.timesteps, sampler.memory
        weights = policy.plan.weights
        self.outputs = 1 if weights is None else weights.shape[2]  # that a forecast takes
        self._held: set[int] = set()
        for p in points:
            self._count(p)

    def _count(self, point: Point) -> None:
        new = {id(t): t.nbytes for t in (point.state, *point.tensors.values()) if id(t) not in self._held}
        self._held |= new.keys()
        self.left -= sum(new.values())

    def alpha_bar(self, s):
        return self.sampler.alpha_bar(s)

    def step(self, s, output, state, seeds=None):
        state = self.sampler.step(s, output, state, seeds)
        if self.left > 0:
            cache, ops = self.policy.cache, self.policy.plan.program[s]
            dropped: dict[Key, Tensor] = {}
            for (action, first, stop, age), tensor in self.points[-1].tensors.items():
                age += provides(ops, (action, first, stop))
                if age < self.outputs:
                    dropped[action, first, stop, age] = tensor
            self.points.append(Point(state, dropped | cache.tensors, cache.reused))
            self._count(self.points[-1])
        return state


def _equal_rows(a: Plan, b: Plan) -> int:
    """The number of first steps at which two plans do the same."""
    if a.protocol != b.protocol or a.actions.shape != b.actions.shape:
        return 0
    same = (a.actions == b.actions).all(1)
    outputs = max((p.weights.shape[2] for p in (a, b) if p.weights is not None), default=0)
    same &= (_wide(a, outputs) == _wide(b, outputs)).all((1, 2))
    return len(same) if same.all() else int(same.argmin())


def _wide(plan: Plan, outputs: int) -> np.ndarray:
    """Its weights (steps, branches, outputs), zero where it has none."""
    wide = np.zeros((*plan.actions.shape, outputs), np.float32)
    if plan.weights is not None:
        wide[:, :, : plan.weights.shape[2]] = plan.weights
    return wide
