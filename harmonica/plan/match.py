"""Choice of a heuristic's integer parameters: those whose cost is closest to that of a learned row."""

from collections.abc import Callable, Iterable

from harmonica.plan.branches import BranchLayout
from harmonica.plan.costs import macs
from harmonica.plan.plan import Plan
from harmonica.utils import UserError


def match_macs(target_cur: float, plans: Iterable[Plan], layout: BranchLayout) -> Plan:
    """The plan whose MACs are closest to those of reusing `target_cur` percent of every kind of branch.

    Ties go to the first. Raises UserError if the target is not in (0, 100].
    """
    plans = list(plans)
    target = macs_at(target_cur, plans[0].steps, layout)
    return min(plans, key=lambda p: abs(macs(p, layout) - target))


def count_at(
    target_cur: float, steps: int, layout: BranchLayout, counts: Iterable[int], plan_of: Callable[[int], Plan]
) -> int:
    """The number, of `counts`, of computed steps whose plan has the MACs closest to those of `steps` that reuse
    `target_cur` percent. Ties go to the first. Raises UserError if the target is not in (0, 100]."""
    budget = macs_at(target_cur, steps, layout)
    return min(counts, key=lambda n: abs(macs(plan_of(n), layout) - budget))


def macs_at(target_cur: float, steps: int, layout: BranchLayout) -> float:
    """MACs, for one image and guidance half, of `steps` that reuse `target_cur` percent of every kind of branch.

    Raises UserError if the target is not in (0, 100].
    """
    if not 0 < target_cur <= 100:
        raise UserError(f"target_cur must be in (0, 100] percent, got {target_cur:g}")
    return float(steps * (layout.macs - layout.branch_macs.sum() * target_cur / 100) + layout.once_macs)
