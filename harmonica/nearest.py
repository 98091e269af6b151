"""The heuristics have a few integer parameters; beside a learned row they take those that cost nearest to it."""

from collections.abc import Iterable

from harmonica.errors import UserError
from harmonica.plan import Plan
from harmonica.shape import Shape


def nearest(target_cur: float, plans: Iterable[Plan], shape: Shape) -> Plan:
    """The plan whose MACs are nearest to those of reusing `target_cur` percent of every kind of branch.

    The first among equals. Raises UserError for a target that is no ratio.
    """
    if not 0 < target_cur <= 100:
        raise UserError(f"a CUR lies between 0 and 100 %, not at {target_cur:g}")
    plans = list(plans)
    steps = plans[0].steps
    whole = steps * shape.macs + shape.once_macs
    target = whole - steps * shape.branch_macs.sum() * target_cur / 100
    return min(plans, key=lambda p: abs(p.macs(shape) - target))
