"""Rules: plans whose skips are decided while an image is made, for every sequence by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonica.plan.program import COMPUTE, SPAN_DELTA
from harmonica.utils import UserError, unknown

if TYPE_CHECKING:
    from harmonica.plan.branches import BranchLayout
    from harmonica.plan.plan import Plan

# by measure: tensors of a stream that it keeps between steps, besides the cached changes
MEASURES = {"input": 1, "first branches": 1, "rate": 2, "verified": 0}


@dataclass(frozen=True)
class Rule:
    """When a sequence, one guidance half of one image, skips what its row of the plan allows; otherwise it computes
    all.

    It skips while what `measure` says is below `threshold`, see `execution/rules.py`. A skip adds the last computed
    change of the span to the stream, or its Taylor series of `order`. Not more than `most` skips are in a row.
    Raises UserError for an unknown measure, or numbers out of range.
    """

    measure: str
    threshold: float
    most: int | None = None
    order: int = 0
    coefficients: tuple[float, ...] = ()  # of a polynomial that the change is put through, the highest degree first
    parameters: dict[str, float] = field(default_factory=dict)  # that only this measure has

    def __post_init__(self):
        object.__setattr__(self, "coefficients", tuple(map(float, self.coefficients)))
        if self.measure not in MEASURES:
            raise unknown("measure of a rule", self.measure, MEASURES)
        numbers = [self.threshold, *self.coefficients, *self.parameters.values()]
        if not np.isfinite(numbers).all() or self.threshold < 0:
            raise UserError(f"a rule needs a threshold of 0 or more and finite numbers, got {self}")
        if not 0 <= self.order <= 3 or (self.most is not None and self.most < 1):
            raise UserError(f"a rule has an order of 0 to 3, and skips at least one step in a row: {self}")

    def to_json(self) -> dict[str, Any]:
        """As one JSON-able object."""
        return asdict(self) | {"coefficients": list(self.coefficients)}


RULE_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["measure", "threshold"],
    "properties": {
        "measure": {"type": "string"}, "threshold": {"type": "number"}, "order": {"type": "integer"},
        "most": {"type": ["integer", "null"]},
        "coefficients": {"type": "array", "maxItems": 16, "items": {"type": "number"}},
        "parameters": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}  # fmt: skip


def span_of(actions: np.ndarray) -> tuple[int, int]:
    """First branch, and the branch after the last, of the span that the rows of a rule's plan (steps, branches) allow
    to be skipped; a row without it is always computed. Raises UserError for any other table."""
    allowed = (actions == SPAN_DELTA).any(0)
    first, stop = int(allowed.argmax()), len(allowed) - int(allowed[::-1].argmax())
    rows = {row.tobytes() for row in actions if row.any()}
    if len(rows) != 1 or not allowed[first:stop].all() or not np.isin(actions, (COMPUTE, SPAN_DELTA)).all():
        raise UserError("the plan of a rule computes a step, or allows one and the same span of changes to be skipped")
    return first, stop


def realised(plan: Plan, skipped: np.ndarray) -> Plan:
    """The fixed plan of what a sequence under a rule did, from the steps that it skipped, bool (steps,). For a rule of
    order 0 it gives the same latents; the forecasts of others have no fixed weights, and it reuses instead."""
    first, stop = span_of(plan.actions)
    actions = np.zeros_like(plan.actions)
    actions[np.asarray(skipped, bool), first:stop] = SPAN_DELTA
    return type(plan)(actions, plan.protocol, plan.origin)


def cur_of(plan: Plan, skipped: np.ndarray) -> np.ndarray:
    """Cache utilisation ratio in percent, from the share of steps that were skipped, of any shape."""
    first, stop = span_of(plan.actions)
    return 100 * np.asarray(skipped, np.float64) * (stop - first) / plan.branches


def macs_of(plan: Plan, layout: BranchLayout, skipped: float) -> float:
    """MACs for one image and guidance half, from the mean share of the steps that were skipped."""
    assert plan.rule
    first, stop = span_of(plan.actions)
    joins = sum(first <= target < stop for _, target in layout.skips)
    saved = layout.branch_macs[first:stop].sum() + joins * layout.skip_macs
    summed = (plan.rule.order + 1) * layout.stream_elements if plan.rule.order else 0
    whole = plan.steps * layout.macs + layout.once_macs
    return float(whole - plan.steps * skipped * (saved - summed))
