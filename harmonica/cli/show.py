"""`harmonica show`"""

from pathlib import Path

import numpy as np

from harmonica.cli import _shared

HELP = "Print a plan's actions and savings."
EXAMPLE = "harmonica show hc.safetensors"
LETTERS = ".rdotfF"  # by action


def add_arguments(parser) -> None:
    parser.add_argument("plan", type=Path)


def run(args) -> None:
    from harmonica.plan import Plan

    plan = Plan.load(args.plan)
    p, o = plan.protocol, plan.origin
    print(
        f"{o.method} for {p.model}, {p.sampler}, {plan.steps} steps, guidance scale {p.cfg:g}: {_shared.summary(plan)}"
    )
    for what in ("settings", "notes", "cost"):
        if getattr(o, what):
            print(f"{what}: " + ", ".join(f"{k} = {v}" for k, v in getattr(o, what).items()))
    print(
        "one row per step, noisiest first: . compute, r reuse, f forecast, d span delta, o span output, "
        "t span with own time tokens, F span forecast; "
        "at the end the weights of a step's forecasts, newest output first"
    )
    for s, row in enumerate(plan.actions):
        print(f"{s:4} {''.join(LETTERS[a] for a in row)}{_weights(plan, s)}")


def _weights(plan, s: int) -> str:
    """The weights of a step's forecasts, if all branches have the same."""
    if plan.weights is None:
        return ""
    different = np.unique(plan.weights[s][plan.weights[s].any(axis=1)], axis=0)
    return "  " + " ".join(f"{x:.3g}" for x in different[0]) if len(different) == 1 else ""
