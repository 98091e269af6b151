"""Learning-to-Cache as released: the authors' own router for DiT-XL/2 256, 20 or 50 DDIM steps (arXiv 2406.01733).

The HarmoniCa paper's Learning-to-Cache rows are trained anew by its authors and score lower than this router is said
to; so both stand in the table.
"""

from dataclasses import dataclass, replace

from harmonica.errors import UserError
from harmonica.plan import Plan

TITLE = "Learning-to-Cache (released router)"
RELEASED = (20, 50)


@dataclass(frozen=True, kw_only=True)
class Settings:
    threshold: float = 0.1  # τ, compute where r > τ


def files(steps: int) -> list[str]:
    """The file of others that the plan is made from. Raises UserError for a number of steps without one."""
    if steps not in RELEASED:
        raise UserError(f"routers are released for {' and '.join(map(str, RELEASED))} steps, not for {steps}")
    return [f"DDIM{steps}_router.pt"]


def make(task, settings: Settings) -> Plan:
    from harmonica import downloads, released

    (name,) = files(task.steps)
    router = released.read(downloads.require(name)).router(task.experiment.model, "learning_to_cache")
    plan = router.plan(settings.threshold)
    return replace(plan, origin=task.origin(notes=router.origin.notes))
