"""The threshold of a rule for a budget: images are made under it, and what they skipped is counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harmonica.execution.rules import Ruled
from harmonica.execution.run import Run
from harmonica.plan import Plan, macs_at
from harmonica.plan.rule import cur_of, macs_of
from harmonica.training.settings import TRIALS
from harmonica.training.starts import random_starts


def at_budget(task, plan_of: Callable[[float], Plan], target_cur: float, images: int, high: float) -> Plan:
    """The plan, of those `plan_of` thresholds between 0 and `high`, whose images have MACs closest to the budget of
    `target_cur` percent: bisection on a few random images. What they skipped is in its notes.

    Raises UserError if the target is not in (0, 100].
    """
    budget = macs_at(target_cur, task.steps, task.layout)
    low, best = 0.0, (float("inf"), plan_of(high))
    threshold = high  # whether the budget can be met at all
    for _ in range(TRIALS):
        plan = plan_of(threshold)
        shares = task.decisions(plan, images).double().mean(1)
        found = macs_of(plan, task.layout, float(shares.mean()))
        if abs(found - budget) < best[0]:
            curs = cur_of(plan, shares.numpy())
            notes = {"CUR": round(float(curs.mean()), 2), "CUR_sd": round(float(curs.std()), 2)}
            best = (abs(found - budget), plan.with_origin(notes=plan.origin.notes | notes))
        if found > budget:
            low = threshold
        else:
            high = threshold
        threshold = (low + high) / 2
    task.cost["generation_passes"] = task.cost.get("generation_passes", 0) + images * TRIALS
    return best[1]


def decisions(task, plan: Plan, images: int) -> Tensor:
    """What every sequence of a few random images skips under a plan with a rule, bool (sequences, steps)."""
    (start,) = random_starts(task, images, images, torch.Generator().manual_seed(task.seed))
    policy = Ruled(task.backbone, plan)
    Run(task.backbone, plan, start.model.labels, policy)(start.noise, start.seeds)
    return policy.skipped
