"""The heuristics have a few integer parameters; beside a learned row they take those that cost nearest to it."""

from collections.abc import Iterable

from harmonica.plan import Plan
from harmonica.shape import Shape


def nearest(target_cur: float, plans: Iterable[Plan], shape: Shape) -> Plan:
    """The plan whose MACs are nearest to reusing `target_cur` percent of the branch work; the first among equals."""
    plans = list(plans)
    steps = plans[0].steps
    target = steps * (shape.branch_macs.sum() * (1 - target_cur / 100) + shape.other_macs)
    return min(plans, key=lambda p: abs(p.macs(shape) - target))
