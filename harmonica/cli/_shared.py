"""What several commands need."""

import time
from pathlib import Path

from harmonica.utils import UserError

loaded_at: float | None = None


def loaded() -> None:
    """Note that imports and weights are loaded: `harmonica timing` tells start-up from work."""
    global loaded_at
    loaded_at = time.time()


def load_plans(paths: list[Path]) -> dict:
    """Plans by file stem. Raises UserError if two files share one."""
    from harmonica.plan import Plan

    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two plans are named {name}: results are stored by name, rename one of the files")
    return {path.stem: Plan.load(path) for path in paths}


def save_plan(plan, router, path: Path) -> None:
    """Write the plan, and beside it its router, if any."""
    if router is not None:
        router.save(path.with_suffix(".router.safetensors"))
    plan.save(path)


def layout_of(plan):
    """The branch layout of the model of a plan."""
    from harmonica.models import get_model

    return get_model(plan.protocol.model).layout


def summary(plan) -> str:
    """CUR, MACs and theoretical speed-up of a plan."""
    from harmonica.plan import macs, theoretical_speedup

    layout = layout_of(plan)
    return (
        f"CUR {plan.cur:.2f} %, {macs(plan, layout) / 1e9:.4g} GMACs per image and guidance half, "
        f"theoretical speed-up {theoretical_speedup(plan, layout):.2f}x at an equal number of steps"
    )


def captioned(name: str):
    """A text-to-image model by name. Raises UserError for another."""
    from harmonica.models import get_model

    model = get_model(name)
    if not model.captions:
        raise UserError(f"{name} is conditioned on classes, not captions")
    return model


def plans_argument(parser) -> None:
    parser.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
