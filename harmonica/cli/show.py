"""`harmonica show`"""

from pathlib import Path

import numpy as np

from harmonica.cli import _shared

HELP = "Print a plan's actions and savings, or a compression's layers and savings."
EXAMPLE = "harmonica show hc.safetensors"
LETTERS = ".rdotfF"  # by action


def add_arguments(parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def run(args) -> None:
    from harmonica.compression.file import Compression, is_compression
    from harmonica.plan import Plan

    if is_compression(args.file):
        _show_compression(Compression.load(args.file))
        return
    plan = Plan.load(args.file)
    p, o = plan.protocol, plan.origin
    print(
        f"{o.method} for {p.model}, {p.sampler}, {plan.steps} steps, guidance scale {p.cfg:g}: {_shared.summary(plan)}"
    )
    _about(o)
    if plan.rule:
        about = ", ".join(f"{k} = {v}" for k, v in plan.rule.to_json().items() if v not in (None, [], {}))
        print(f"rule: {about}; below it a step skips, else it computes all, for every image and half by itself")
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


def _about(origin) -> None:
    for what in ("settings", "notes", "cost"):
        if getattr(origin, what):
            print(f"{what}: " + ", ".join(f"{k} = {v}" for k, v in getattr(origin, what).items()))


def _show_compression(compression) -> None:
    p, o = compression.protocol, compression.origin
    print(f"{o.method} of {p.model}, calibrated on {p.sampler}, {p.steps} steps, guidance scale {p.cfg:g}: "
          f"{_shared.summary_of(compression)}")  # fmt: skip
    _about(o)
    if compression.kept:
        print("kept: " + ", ".join(f"{v} {k} in every block" for k, v in compression.kept.items()))
    if not compression.layers:
        return
    print("quantised layers: bits of the weight, bits of its input, what the input's scales are for, MMACs")
    for name, layer in compression.layers.items():
        scales = layer.scales or "float product"
        print(f"  {name:28} {layer.weight_bits:2} {layer.act_bits:2}  {scales:14} {layer.macs / 1e6:.4g}")
