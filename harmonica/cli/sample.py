"""`harmonica sample`"""

import io
from pathlib import Path

from harmonica.cli import _shared

HELP = "Generate images under one plan or several; resumes where it was interrupted."
EXAMPLE = "harmonica sample hc.safetensors --images 1000 -o samples/ --grid grid.png"


def add_arguments(parser) -> None:
    _shared.plans_argument(parser)
    _shared.compression_argument(parser)
    parser.add_argument("--images", type=int, default=64, help="per plan; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="index of the first image; default: %(default)s")
    _shared.image_seed_argument(parser)
    parser.add_argument("--batch", type=int, help="images per forward pass; default: 25, on a GPU as many as fit")
    parser.add_argument("--compiled", action="store_true", help="compile branches by torch.compile, a few seconds for "
                        "each model: faster, images differ by rounding; no rules, no compressed models")  # fmt: skip
    parser.add_argument("--chunk", type=int, default=250, help="images per file; default: %(default)s")
    _shared.compute_arguments(parser)
    parser.add_argument("--model", help=f"refuse plans for another model; {_shared.MODEL}")
    parser.add_argument("--sampler", help="refuse plans for another sampler")
    parser.add_argument("--steps", type=int, help="refuse plans for another number of steps")
    _shared.network_arguments(parser)
    parser.add_argument("--keep", type=int, metavar="N", help="keep only the first N images of a plan after their "
                        "features, which need --extractor; default: all")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    parser.add_argument("--manifest", type=Path, help="write the names of the chunk files here (JSON)")
    parser.add_argument("--grid", type=Path, help="also write the first 64 images of the first plan as one picture")


def run(args) -> None:
    from tqdm import tqdm

    from harmonica.evaluation import generate
    from harmonica.evaluation.records import Manifest
    from harmonica.models import get_model
    from harmonica.utils.memory import budget
    from harmonica.utils.precision import products

    model = get_model(args.model).name if args.model else None  # a folder is found anew, wherever its plan was made
    if args.compiled:
        _shared.check_compiler()
    plans, compressions = _shared.load_runs(args)
    for plan in plans.values():
        given = {"model": model, "sampler": args.sampler, "steps": args.steps}
        required = {k: getattr(plan.protocol, k) if v is None else v for k, v in given.items()}
        plan.check_fits(**required, layout=_shared.layout_of(plan))
    memory = budget(args.memory)
    batches = {name: generate.batch_size(plan, args.batch, args.precision, memory) for name, plan in plans.items()}
    on = {name: (plan.protocol.model, compressions.get(name)) for name, plan in plans.items()}
    parts = {about: generate.load_parts(about[0], args.precision, memory, about[1]) for about in set(on.values())}
    policies = _compiled(parts) if args.compiled else {}
    extract = _shared.networks(args.extractor, *_shared.clip_of(args))[0] if args.extractor else None
    _shared.loaded()
    manifest = {}
    bar = tqdm(total=len(plans) * args.images, desc="sample", unit="image", mininterval=5)
    with bar, products(args.precision):
        for name, plan in plans.items():
            own, batch, policy = parts[on[name]], batches[name], None if plan.rule else policies.get(on[name])
            folder = args.out / generate.folder_name(
                plan, name, args.precision, args.seed, compressions.get(name), policy is not None
            )
            sizes = (args.first, args.images, args.chunk, batch)
            files = generate.generate(plan, folder, *sizes, own, bar.update, extract, args.keep, args.seed, policy)
            manifest[name] = [str(f) for f in files]
    if args.manifest:
        named = {name: plan.protocol.model for name, plan in plans.items()}
        Manifest(**_shared.hardware(args.precision), seed=args.seed, models=named, images=manifest).save(args.manifest)
    if args.grid:
        images, _ = generate.read(next(iter(manifest.values()))[: -(-64 // args.chunk)])
        _save_grid(images[:64], args.grid)


def _compiled(parts: dict) -> dict:
    """What runs plans on the models that are not compressed, by their key."""
    from harmonica.runtimes.compiled_branches import CompiledBranches

    return {about: CompiledBranches(own[0]).policy for about, own in parts.items() if about[1] is None}


def _save_grid(images, path: Path) -> None:
    import numpy as np
    from PIL import Image

    from harmonica.utils import write_atomic

    side = max(1, int(len(images) ** 0.5))
    rows = [np.concatenate(list(images[i : i + side]), 1) for i in range(0, side * side, side)]
    data = io.BytesIO()
    Image.fromarray(np.concatenate(rows).squeeze()).save(data, "png")
    write_atomic(path, data.getvalue())
