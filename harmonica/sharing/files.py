"""Plan and router files, whichever a file is."""

from pathlib import Path

from harmonica.models import known
from harmonica.plan import Plan, Router
from harmonica.plan.branches import BranchLayout
from harmonica.plan.io import opened
from harmonica.utils import UserError


def load(path: Path) -> Plan | Router:
    """The plan or router in a file. Raises UserError if it is missing, damaged, or neither."""
    with opened(path, "harmonica plan") as f:
        kind = (f.metadata() or {}).get("format", "")
    return Router.load(path) if kind.startswith("harmonica-router-") else Plan.load(path)


def plan_of(made: Plan | Router) -> Plan | None:
    """The plan itself, or that of a router at the threshold in its notes; None if they have none."""
    if isinstance(made, Plan):
        return made
    threshold = made.origin.notes.get("threshold")
    return made.plan(threshold) if isinstance(threshold, float | int) and 0 <= threshold < 1 else None


def layout_of(made: Plan | Router) -> BranchLayout | None:
    """The layout of the model that it is for; None for a model that is not known here. Raises UserError if it has other
    branches."""
    if made.protocol.scheduler:
        return _of_pipeline(made)
    model = known(made.protocol.model)
    if model is None:
        return None
    if isinstance(made, Plan):
        made.check_layout(model.layout)
    elif made.logits.shape[1] != len(model.layout.branches):
        raise UserError(
            f"the router has {made.logits.shape[1]} branches, but {model.layout.name} has {len(model.layout.branches)}"
        )
    return model.layout


def _of_pipeline(made: Plan | Router) -> BranchLayout:
    """The layout that a plan made on a pipeline has in its notes. Raises UserError if it is not one of its branches."""
    name = made.protocol.model
    try:
        layout = BranchLayout.from_json(name, made.origin.notes["layout"])
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"the plan for {name} does not say what its branches cost ({type(e).__name__}: {e})") from None
    if isinstance(made, Plan):
        made.check_layout(layout)
    return layout
