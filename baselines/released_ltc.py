"""Learning-to-Cache as released: the authors' own routers for 20 or 50 steps, DDIM on DiT-XL/2 256 and DPM-Solver on
U-ViT-H/2 256 (arXiv 2406.01733).

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
    threshold: float | None = None  # τ, compute where r > τ; default: the authors' own, 0.1 for DiT and 0.9 for U-ViT


def files(experiment) -> list[str]:
    """The file of others that the plan is made from. Raises UserError for a model or a number of steps without one."""
    names, steps = {"dit-xl-2-256": "DDIM{}_router.pt", "uvit-h-2-256": "dpm{}_router.pth"}, experiment.steps
    if experiment.model not in names:
        raise UserError(f"routers are released for {' and '.join(names)}, not for {experiment.model}")
    if steps not in RELEASED:
        raise UserError(f"routers are released for {' and '.join(map(str, RELEASED))} steps, not for {steps}")
    return [names[experiment.model].format(steps)]


def make(task, settings: Settings) -> Plan:
    from harmonica import downloads, released

    (name,), model = files(task.experiment), task.experiment.model
    router = released.read(downloads.require(name)).router(model, "learning_to_cache")
    plan = router.plan(released.threshold(model) if settings.threshold is None else settings.threshold)
    return replace(plan, origin=task.origin(notes=router.origin.notes))
