"""`harmonica show`"""

from pathlib import Path

import numpy as np

from harmonica.cli import _shared
from harmonica.utils import UserError, file_hash

HELP = "Print what a plan or router is and what was measured of it; or a compression's layers and savings."
EXAMPLE = "harmonica show hc.safetensors"
LETTERS = ".rdotfFO"  # by action


def add_arguments(parser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", metavar="FILE")
    what.add_argument("--shipped", action="store_true", help="list the plans of the shipped models, with their files")
    _shared.quality_argument(parser)
    parser.add_argument("--samples", type=Path, metavar="FOLDER", help="images of a plan with a rule: what they did")


def run(args) -> None:
    from harmonica.compression.file import Compression, is_compression
    from harmonica.plan import Plan
    from harmonica.sharing import facts, files

    if args.shipped:
        _show_shipped()
        return
    made = Compression.load(args.file) if is_compression(args.file) else files.load(args.file)
    if args.samples and not (isinstance(made, Plan) and made.rule):
        raise UserError(f"--samples shows what a rule did, and {args.file} has none")
    if isinstance(made, Compression):
        _show_compression(made)
        return
    print(facts.headline(made))
    _about(made.origin)
    print(f"sha256: {file_hash(args.file)}")
    _quality(_shared.quality(made, args.quality))
    if isinstance(made, Plan):
        _actions(made)
    if args.samples:
        _realised(made, args.samples)


def _show_shipped() -> None:
    from harmonica.plan import Plan
    from harmonica.sharing import facts, shipped_plans

    for path in shipped_plans.paths():
        print(f"{path}: {facts.headline(Plan.load(path))}")


def _about(origin) -> None:
    from harmonica.sharing import facts

    for name, text in facts.facts(origin):
        print(f"{name}: {text}")


def _quality(quality) -> None:
    if quality is None:
        print("quality: not measured, no table at hand has a row of exactly this plan")
        return
    print("quality: " + ", ".join(f"{name} {value}" for name, value in quality.rows()))
    print(f"measured: {quality.conditions()}")


def _actions(plan) -> None:
    if plan.rule:
        about = ", ".join(f"{k} = {v}" for k, v in plan.rule.to_json().items() if v not in (None, [], {}))
        print(f"rule: {about}; below it a step skips, else it computes all, for every image and half by itself")
    print(
        "one row per step, noisiest first: . compute, r reuse, f forecast, d span delta, o span output, "
        "t span with own time tokens, F span forecast, O forecast of the model's output; "
        "at the end the weights of a step's forecasts, newest output first"
    )
    for s, row in enumerate(plan.actions):
        print(f"{s:4} {''.join(LETTERS[a] for a in row)}{_weights(plan, s)}")


def _realised(plan, folder: Path) -> None:
    """What the images of a folder did under a rule: CUR, and the share that skipped each step."""
    from harmonica.evaluation import generate
    from harmonica.plan.rule import cur_of

    files = {p.with_name(p.name.replace(".features.", ".")) for p in folder.glob("*.npz")}
    chunks = list(generate.chunks(sorted(files)))
    found = [c.skipped for c in chunks if c.skipped is not None and c.skipped.shape[2] == plan.steps]
    if len(found) < len(chunks):
        raise UserError(f"the images of {folder} were not made under this plan's rule")
    skipped = np.concatenate(found)  # (n, halves, steps)
    cur = cur_of(plan, skipped.mean((1, 2)))
    print(f"realised by {len(skipped)} images: CUR {cur.mean():.2f} % (sd {cur.std():.1f} over images); percent that "
          "skip a step, one column a guidance half:")  # fmt: skip
    for s, shares in enumerate(skipped.mean(0).T):
        print(f"{s:4} " + " ".join(f"{100 * share:3.0f}" for share in shares))


def _weights(plan, s: int) -> str:
    """The weights of a step's forecasts, if all branches have the same."""
    if plan.weights is None:
        return ""
    different = np.unique(plan.weights[s][plan.weights[s].any(axis=1)], axis=0)
    return "  " + " ".join(f"{x:.3g}" for x in different[0]) if len(different) == 1 else ""


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
