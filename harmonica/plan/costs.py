"""What a plan costs on a model: multiply-accumulates (MACs) and bytes of cache."""

from harmonica.plan.branches import BranchLayout
from harmonica.plan.plan import Plan
from harmonica.plan.program import COMPUTE, REUSE, carried_skips


def macs(plan: Plan, layout: BranchLayout) -> float:
    """MACs of the full trajectory, for one image and one guidance half. Raises UserError if the plan does not fit."""
    plan.check_layout(layout)
    branches = ((plan.actions == COMPUTE) @ layout.branch_macs).sum()
    joins = sum(target in ops for ops in plan.program for _, target in layout.skips)
    return float(branches + joins * layout.skip_macs + plan.steps * layout.other_macs + layout.once_macs)


def theoretical_speedup(plan: Plan, layout: BranchLayout) -> float:
    """MACs of the uncached run at equal steps, divided by the plan's."""
    return (plan.steps * layout.macs + layout.once_macs) / macs(plan, layout)


def cache_bytes(plan: Plan, layout: BranchLayout, batch: int = 1, itemsize: int = 4, guided: bool = True) -> int:
    """Peak bytes in the executor's cache, for `batch` images. Raises UserError if the plan does not fit."""
    plan.check_layout(layout)
    peak = 0
    stored: set[tuple[int, int, int]] = set()
    skips: set[int] = set()
    carried = carried_skips(plan.program, layout.skips)
    for s, ops in enumerate(plan.program):
        counted = carried[s] | carried[s - 1] if s else carried[s]
        skips &= carried[s - 1] if s else set()
        for start, op in sorted(ops.items()):
            if start in counted:
                skips.add(start)
            if op.drop:
                stored.remove((op.action, start, op.stop))
            for key in [(REUSE, start, op.stop)] * op.store + list(op.closes):
                stored.add(key)
                peak = max(peak, len(stored) + len(skips))
    return peak * layout.stream_elements * batch * itemsize * (2 if guided else 1)
