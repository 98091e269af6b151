"""`harmonica show`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Print a plan's actions and savings."
EXAMPLE = "harmonica show hc.safetensors"


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
        "one row per step, noisiest first: . compute, r reuse, d span delta, o span output, t span with own time tokens"
    )
    for s, row in enumerate(plan.actions):
        print(f"{s:4} {''.join('.rdot'[a] for a in row)}")
