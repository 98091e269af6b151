"""The plan: which branch is computed and which is reused, at every step.

Rows are in execution order: row 0 is the first and noisiest step (t = T-1 in the paper's index) and computes
everything.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.plan.branches import BranchLayout
from harmonica.plan.io import read_tables, write_tables
from harmonica.plan.origin import BY_HAND, Origin, Protocol
from harmonica.plan.program import COMPUTE, SPAN_TIMED, Ops, build_program
from harmonica.utils import UserError


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions uint8 (steps, branches), the protocol to run them with, and their origin.

    Raises UserError if they are not executable.
    """

    actions: np.ndarray
    protocol: Protocol
    origin: Origin = BY_HAND

    def __post_init__(self):
        a = np.ascontiguousarray(self.actions, dtype=np.uint8)
        a.flags.writeable = False
        object.__setattr__(self, "actions", a)
        if a.ndim != 2 or not a.size:
            raise UserError(f"a plan is a table of steps × branches, got an array of shape {a.shape}")
        if len(a) != self.protocol.steps:
            raise UserError(f"the plan has {len(a)} rows, but its protocol has {self.protocol.steps} steps")
        if a.max() > SPAN_TIMED:
            raise UserError(f"unknown action {a.max()}: a newer version may have written this plan")
        if a[0].any():
            raise UserError("the first step of a plan must compute every branch: there is nothing to reuse yet")

    @property
    def steps(self) -> int:
        """T, the evaluations of the model."""
        return self.actions.shape[0]

    @property
    def branches(self) -> int:
        """Residual branches of the model."""
        return self.actions.shape[1]

    @property
    def cur(self) -> float:
        """Cache utilisation ratio in percent: reused branch evaluations / (steps · branches)."""
        return 100.0 * float((self.actions != COMPUTE).mean())

    @cached_property
    def program(self) -> tuple[Ops, ...]:
        """The operations of every step."""
        return build_program(self.actions)

    def check_layout(self, layout: BranchLayout) -> None:
        """Raise UserError unless the plan has as many branches as the model."""
        if self.branches != len(layout.branches):
            raise UserError(
                f"the plan has {self.branches} branches, but {layout.name} has {len(layout.branches)}: "
                f"it was made for {self.protocol.model}"
            )

    def check_fits(self, *, model: str, sampler: str, steps: int, layout: BranchLayout) -> None:
        """Raise UserError unless the plan was made for this model, sampler and number of steps."""
        for what, own, requested in (("model", self.protocol.model, model), ("sampler", self.protocol.sampler, sampler),
                                     ("number of steps", self.steps, steps)):  # fmt: skip
            if own != requested:
                raise UserError(f"the plan was made for {what} {own}, not {requested}; make one with `harmonica plan`")
        self.check_layout(layout)

    def save(self, path: str | Path) -> None:
        """Write a plan file, atomically."""
        write_tables(path, "plan", {"actions": self.actions}, self.protocol, self.origin)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan file. Raises UserError if it is missing, damaged, or not a plan."""
        tables, protocol, origin = read_tables(path, "plan", {"actions": np.uint8})
        try:
            return Plan(tables["actions"], protocol, origin)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None

    def with_protocol(self, **changes) -> "Plan":
        """The plan with these protocol fields."""
        return Plan(self.actions, replace(self.protocol, **changes), self.origin)

    def with_origin(self, **changes) -> "Plan":
        """The plan with these origin fields."""
        return Plan(self.actions, self.protocol, replace(self.origin, **changes))


def all_compute(protocol: Protocol, branches: int, origin: Origin = BY_HAND) -> Plan:
    """The plan of the uncached model."""
    return Plan(np.zeros((protocol.steps, branches), np.uint8), protocol, origin)
