"""The router: what a learned method trains. Logits (steps, branches) in execution order, row 0 the noisiest step."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harmonica.errors import UserError
from harmonica.plan import COMPUTE, REUSE, Origin, Plan, read_tables, write_tables

FORMAT = "harmonica-router-1"
LIMIT = 5.0  # logits are clamped to ±LIMIT; a step that may not reuse has +LIMIT throughout


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True, eq=False)
class Router:
    """float32 logits (steps, branches); r = sigmoid(logit) > τ means compute and refresh the cache, else reuse."""

    logits: np.ndarray
    origin: Origin

    def __post_init__(self):
        logits = np.ascontiguousarray(self.logits, np.float32)
        object.__setattr__(self, "logits", logits)
        if logits.ndim != 2 or len(logits) != self.origin.steps:
            raise UserError(f"router logits of shape {logits.shape} do not fit {self.origin.steps} steps")
        if not np.isfinite(logits).all():
            raise UserError("the router holds numbers that are not finite")

    def plan(self, threshold: float) -> Plan:
        """The plan at threshold τ in [0, 1); the first step computes everything, whatever its logits."""
        if not 0 <= threshold < 1:
            raise UserError(f"a threshold lies in [0, 1), not at {threshold}")
        actions = np.where(sigmoid(self.logits) > threshold, COMPUTE, REUSE).astype(np.uint8)
        actions[0] = COMPUTE
        return Plan(actions, self.origin)

    def with_cost(self, **more: float) -> "Router":
        """The same, with more said of what it cost."""
        return Router(self.logits, replace(self.origin, cost=self.origin.cost | more))

    def save(self, path: str | Path) -> None:
        write_tables(path, FORMAT, {"logits": self.logits}, self.origin)

    @staticmethod
    def load(path: str | Path) -> "Router":
        """Read a router file. Raises UserError for a missing, truncated or foreign file."""
        tables, origin = read_tables(path, FORMAT, "router", {"logits": np.float32})
        return Router(tables["logits"], origin)
