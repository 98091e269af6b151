"""The plain sampler with fewer steps: the baseline that every cache has to beat at equal cost."""

from dataclasses import dataclass

from harmonica.errors import UserError
from harmonica.plan import Plan, all_compute

TITLE = "Fewer steps"


@dataclass(frozen=True)
class Settings:
    steps: int | None = None  # how many are run; default: as many as cost what target_cur costs
    target_cur: float = 25.0  # percent of the steps to leave out when `steps` is not given


def make(task, settings: Settings) -> Plan:
    steps = settings.steps
    if steps is None:
        steps = max(1, round(task.steps * (1 - settings.target_cur / 100)))
    if not 1 <= steps <= task.steps:
        raise UserError(f"fewer_steps: {steps} is not between 1 and the {task.steps} steps it is to reduce")
    return all_compute(task.origin(steps=steps), len(task.shape.branches))
