"""The router: what a learned method trains. Logits (steps, branches) in execution order, row 0 the noisiest step."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harmonica.plan.io import read_tables, write_tables
from harmonica.plan.origin import BY_HAND, Origin, Protocol
from harmonica.plan.plan import Plan
from harmonica.plan.program import COMPUTE, REUSE
from harmonica.utils import UserError

LIMIT = 5.0  # logits are clamped to ±LIMIT; a step without reuse has +LIMIT throughout


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The ratio r in (0, 1) of a logit, elementwise."""
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True, eq=False)
class Router:
    """float32 logits (steps, branches); r = sigmoid(logit) > τ means compute and refresh the cache, else reuse.

    Raises UserError for a wrong number of rows, or logits that are not finite.
    """

    logits: np.ndarray
    protocol: Protocol
    origin: Origin = BY_HAND

    def __post_init__(self):
        logits = np.ascontiguousarray(self.logits, np.float32)
        object.__setattr__(self, "logits", logits)
        if logits.ndim != 2 or len(logits) != self.protocol.steps:
            raise UserError(f"router logits of shape {logits.shape} do not fit {self.protocol.steps} steps")
        if not np.isfinite(logits).all():
            raise UserError("the router has logits that are not finite")

    def plan(self, threshold: float) -> Plan:
        """The plan at threshold τ; the first step computes everything, whatever its logits.

        Raises UserError if τ is not in [0, 1).
        """
        if not 0 <= threshold < 1:
            raise UserError(f"the threshold must be in [0, 1), got {threshold}")
        actions = np.where(sigmoid(self.logits) > threshold, COMPUTE, REUSE).astype(np.uint8)
        actions[0] = COMPUTE
        return Plan(actions, self.protocol, self.origin)

    def with_cost(self, **more: float) -> "Router":
        """The router with these additions to its cost."""
        return replace(self, origin=replace(self.origin, cost=self.origin.cost | more))

    def save(self, path: str | Path) -> None:
        """Write a router file, atomically."""
        write_tables(path, "router", {"logits": self.logits}, self.protocol, self.origin)

    @staticmethod
    def load(path: str | Path) -> "Router":
        """Read a router file. Raises UserError if it is missing, damaged, or not a router."""
        tables, protocol, origin, _ = read_tables(path, "router", {"logits": np.float32})
        return Router(tables["logits"], protocol, origin)
