"""What a plan costs on a model: multiply-accumulates (MACs), bytes of cache, and peak memory of a run."""

from bisect import bisect_right

from harmonica.plan.branches import BranchLayout
from harmonica.plan.plan import Plan
from harmonica.plan.program import (
    COMPUTE,
    FORECASTS,
    OUTPUT_FORECAST,
    carried_skips,
    independent_steps,
    skips_model,
    skips_stream,
)
from harmonica.plan.rule import MEASURES, Rule
from harmonica.utils import UserError

# counted on fake tensors at true shapes (tests/gpu)
WORK = 12.1  # temporaries of an evaluation, in tensors as large as the stream: the MLP's hidden layer twice, and more
SLACK = 1.1  # what an allocator holds beyond the tensors


def macs(plan: Plan, layout: BranchLayout) -> float:
    """MACs of the full trajectory, for one image and one guidance half; a forecast costs one for every number that it
    sums up. Of a plan with a rule they are the fewest possible, see `rule.macs_of`. Raises UserError if the plan does
    not fit."""
    plan.check_layout(layout)
    branches = ((plan.actions == COMPUTE) @ layout.branch_macs).sum()
    joins = sum(target in ops for ops in plan.program for _, target in layout.skips)
    summed = sum(
        len(op.ages) * _elements(op.action, layout)
        for ops in plan.program for op in ops.values() if op.action in FORECASTS
    )  # fmt: skip
    return float(
        branches
        + joins * layout.skip_macs
        + summed
        + steps_of_model(plan) * layout.other_macs
        - steps_without_stream(plan) * layout.stream_macs
        + layout.once_macs
    )


def _elements(action: int, layout: BranchLayout) -> int:
    """Numbers in a cached tensor of an action, for one image and guidance half."""
    return layout.output_elements if action == OUTPUT_FORECAST else layout.stream_elements


def steps_of_model(plan: Plan) -> int:
    """The steps that run the model's head, see `skips_model`."""
    return sum(not skips_model(ops) for ops in plan.program)


def steps_without_stream(plan: Plan) -> int:
    """The steps that embed nothing, see `skips_stream`."""
    return sum(skips_stream(ops, plan.branches) for ops in plan.program)


def theoretical_speedup(plan: Plan, layout: BranchLayout) -> float:
    """MACs of the uncached run at equal steps, divided by the plan's."""
    return (plan.steps * layout.macs + layout.once_macs) / macs(plan, layout)


def cache_bytes(plan: Plan, layout: BranchLayout, batch: int = 1, itemsize: int = 4, guided: bool = True) -> int:
    """Peak bytes in the executor's cache, for `batch` images. Raises UserError if the plan does not fit."""
    plan.check_layout(layout)
    elements = _of_rule(plan.rule) * layout.stream_elements if plan.rule else _most_elements(plan, layout)
    return elements * batch * itemsize * (2 if guided else 1)


def _of_rule(rule: Rule) -> int:
    """The tensors that a rule keeps between steps: changes of the span, of what is verified, and its measure's own."""
    return (rule.order + 1) * (2 if rule.measure == "verified" else 1) + MEASURES[rule.measure]


def _most_elements(plan: Plan, layout: BranchLayout) -> int:
    """The most numbers that are cached at a time, for one image and guidance half, long skips between steps
    included."""
    peak = stored = 0
    skips: set[int] = set()
    carried = carried_skips(plan.program, layout.skips)
    for s, ops in enumerate(plan.program):
        counted = carried[s] | carried[s - 1] if s else carried[s]
        skips &= carried[s - 1] if s else set()
        for start, op in sorted(ops.items()):
            if start in counted:
                skips.add(start)
            stored -= len(op.drop) * _elements(op.action, layout)
            keeps = ((op.keep,) if op.keep else ()) + op.closes
            kept = sum(_elements(keep.history[0], layout) for keep in keeps if keep.store)
            if kept:  # as the executor, which looks when a tensor comes in
                stored += kept
                peak = max(peak, stored + len(skips) * layout.stream_elements)
    return peak


def weight_bytes(layout: BranchLayout, itemsize: int = 4) -> float:
    """Bytes of the model's weights."""
    return float(layout.parameters * itemsize)


def run_bytes(plan: Plan, layout: BranchLayout, batch: int, itemsize: int = 4, guided: bool = True) -> float:
    """Predicted peak bytes of the denoising loop with `batch` images: weights, condition, cache, temporaries, and the
    allocator's slack. Raises UserError if the plan does not fit."""
    sequences = batch * (2 if guided else 1)
    together = max(len(independent_steps(plan.program, s)) for s in range(plan.steps))
    stream = (WORK + len(layout.skips)) * layout.stream_elements * together + layout.condition_elements
    cache = cache_bytes(plan, layout, batch, itemsize, guided)
    return SLACK * (weight_bytes(layout, itemsize) + cache + sequences * stream * itemsize)


def images_that_fit(
    plan: Plan, layout: BranchLayout, memory: float, itemsize: int = 4, guided: bool = True, most: int = 64
) -> int:
    """The largest batch, up to `most`, whose predicted peak is at most `memory` bytes. Raises UserError if not even one
    image fits."""
    fit = bisect_right(range(1, most + 1), memory, key=lambda n: run_bytes(plan, layout, n, itemsize, guided))
    if fit:
        return fit
    least = run_bytes(plan, layout, 1, itemsize, guided)
    raise UserError(
        f"one image of {layout.name} needs {least / 2**30:.1f} GiB under this plan, more than the "
        f"{memory / 2**30:.1f} GiB of gpu_memory"
    )
