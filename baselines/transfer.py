"""HarmoniCa's plan of another sampler or number of steps, row by row from the nearest timestep.

A study of ours, not a method of the paper: what a router is worth where it was not trained. The first step computes
everything; every other step takes the actions of that source step whose timestep (0 … 999) is nearest.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.plan import Plan
from harmonica.samplers import make_sampler

TITLE = "HarmoniCa, transferred"
REQUIRES = "harmonica"


@dataclass(frozen=True)
class Settings:
    sampler: str = ""  # that the source plan was made for; default: this experiment's
    steps: int = 0  # of the source plan; default: this experiment's


def source(settings: Settings) -> tuple[str, int]:
    """Sampler and steps of the plan that this one starts from, as far as they are said."""
    return settings.sampler, settings.steps


def title(settings: Settings) -> str:
    said = [str(v) for v in source(settings) if v]
    return " ".join([TITLE, "from", *said]) if said else TITLE


def make(task, settings: Settings) -> Plan:
    plan = task.plans[REQUIRES]
    theirs = np.array(make_sampler(plan.origin.sampler, plan.steps).timesteps)
    actions = np.array([plan.actions[np.abs(theirs - t).argmin()] for t in task.sampler.timesteps])
    actions[0] = 0
    return Plan(actions, task.origin())
