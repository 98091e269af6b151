"""What several commands need."""

import sys
import time
from pathlib import Path

from harmonica.utils import UserError

MODEL = "a name, or the folder of a model of your own"
MODEL_DEFAULT = "pocket-dit"
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


def protocol_arguments(parser) -> None:
    """--model, --sampler, --steps and --cfg, of commands that make something for a trajectory."""
    parser.add_argument("--model", default=MODEL_DEFAULT, help=f"{MODEL}; default: %(default)s")
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--steps", type=int, default=50, help="T, sampling steps; default: %(default)s")
    parser.add_argument("--cfg", type=float, help="guidance scale; default: the model's")


def protocol_of(args):
    """The protocol of those arguments. Raises UserError for an unknown model."""
    from harmonica.models import get_model
    from harmonica.plan import Protocol

    model = get_model(args.model)
    cfg = model.cfg if args.cfg is None else args.cfg
    return Protocol(model.name, args.sampler or model.sampler, args.steps, cfg)


def settings_argument(parser, what: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help=f"a setting of the {what}; repeatable")  # fmt: skip


def settings_of(args) -> dict:
    """The values of --set. Raises UserError for one that is not KEY=VALUE."""
    from harmonica.utils.settings import assigned

    return assigned("--set", args.set)


def compression_argument(parser) -> None:
    """--compression, of commands that run plans."""
    parser.add_argument("--compression", type=Path, nargs="+", action="append", default=[], metavar=("FILE", "PLAN"),
                        help="made by `harmonica compress`: what the plans run on; with plans after it, those only; "
                        "repeatable")  # fmt: skip


def load_runs(args) -> tuple[dict, dict]:
    """Plans, and the compressions that some of them run on, both by name: a plan file's stem, with that of a
    compression which it was not made for. Raises UserError for two equal names, or a compression of another model."""
    from harmonica.compression import Compression
    from harmonica.plan import Plan

    plans, on = {}, {}
    everywhere = [given[0] for given in args.compression if len(given) == 1]
    if len(everywhere) > 1:
        raise UserError("several compressions: say after each which plans run on it, --compression FILE PLAN …")
    runs = [(path, everywhere[0] if everywhere else None) for path in args.plans]
    runs += [(path, given[0]) for given in args.compression for path in given[1:]]
    loaded = {path: Compression.load(path) for _, path in runs if path}
    for path, file in runs:
        plan, name = Plan.load(path), path.stem
        trained_on = plan.origin.notes.get("compression", {})
        if trained_on and not file:
            print(f"harmonica: {path} was made for the model under {trained_on.get('method')}, and runs on the model "
                  "itself: pass --compression FILE", file=sys.stderr)  # fmt: skip
        if file:
            compression = loaded[file]
            if compression.protocol.model != plan.protocol.model:
                raise UserError(f"{path} is for {plan.protocol.model}, and {file} for {compression.protocol.model}")
            name = name if trained_on.get("checksum") == compression.checksum else f"{name}_on-{file.stem}"
            on[name] = compression
        if name in plans:
            raise UserError(f"two plans are named {name}: results are stored by name, rename one of the files")
        plans[name] = plan
    return plans, on


def save_plan(plan, router, path: Path) -> None:
    """Write the plan, and beside it its router, if any."""
    if router is not None:
        router.save(path.with_suffix(".router.safetensors"))
    plan.save(path)


def layout_of(plan):
    """The branch layout of the model of a plan. Raises UserError for one that was made on a pipeline."""
    from harmonica.models import get_model

    name = plan.protocol.model
    if plan.protocol.scheduler:
        raise UserError(f"the plan was made on a pipeline of {name}: run it there, with harmonica.enable_cache")
    return get_model(name).layout


def summary(plan) -> str:
    """CUR, MACs and theoretical speed-up of a plan; of a rule what its calibration images did."""
    from harmonica.sharing.facts import savings

    return savings(plan)


def quality_argument(parser) -> None:
    """--quality, of commands that say what was measured of a plan."""
    parser.add_argument("--quality", type=Path, metavar="CSV",
                        help="table, with its .provenance.json beside it, that has a row of the plan; default: the "
                        "tables of the committed reference run")  # fmt: skip


def quality(made, table: Path | None):
    """What was measured of a plan or router, or None. Raises UserError for a table that cannot be read."""
    from harmonica.sharing import files, measured

    plan = files.plan_of(made)
    return plan and measured.quality_of(plan, [table] if table else measured.reference_tables())


def summary_of(compression) -> str:
    """Bytes, MACs and bit operations of a compression, beside those of the model."""
    from harmonica.compression.costs import bit_operations
    from harmonica.models import get_model
    from harmonica.plan import all_compute, macs

    layout = get_model(compression.protocol.model).layout
    plan = all_compute(compression.protocol, len(layout.branches))
    own, full = macs(plan, compression.layout_of(layout)), macs(plan, layout)
    bits, before = (bit_operations(plan, layout, c) for c in (compression, None))
    return (
        f"{compression.bytes / 1e6:.4g} MB ({4 * layout.parameters / compression.bytes:.2f}x smaller than the weights "
        f"in float32, {2 * layout.parameters / compression.bytes:.2f}x than in float16); {plan.steps} steps of one "
        f"image and guidance half: {own / 1e9:.4g} GMACs ({full / own:.2f}x fewer), {bits / 1e12:.4g} T bit operations "
        f"({before / bits:.2f}x fewer)"
    )


def captioned(name: str):
    """A text-to-image model by name. Raises UserError for another."""
    from harmonica.models import get_model

    model = get_model(name)
    if not model.captions:
        raise UserError(f"{name} is conditioned on classes, not captions")
    return model


def precision_argument(parser) -> None:
    """--precision, of commands that run a model."""
    from harmonica.utils.precision import PRECISIONS

    parser.add_argument("--precision", choices=PRECISIONS, default="float32",
                        help="of the model's branches; default: %(default)s")  # fmt: skip


def compute_arguments(parser) -> None:
    """--precision and --memory, of commands that may use all of a GPU."""
    precision_argument(parser)
    parser.add_argument("--memory", type=float, metavar="GIB",
                        help="of the GPU that may be used; default: nine tenths of it")  # fmt: skip


def check_compiler() -> None:
    """Raise UserError if torch.compile lacks the C++ compiler that it takes on a CPU."""
    from harmonica.utils.devices import default_device

    if default_device().type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "--compiled needs a C++ compiler, and none was found: install g++, or name one in CXX"
        ) from None


def network_arguments(parser, default: str = "none") -> None:
    """The networks of the metrics; `default` says which network is taken where none is given."""
    parser.add_argument("--extractor", help=f"feature network; default: {default}")
    parser.add_argument("--clip", metavar="MODEL", help="open_clip's name of a model, for the CLIP score of captions")
    parser.add_argument("--clip-pretrained", default="", metavar="TAG", help="open_clip's name of its weights")
    parser.add_argument("--captions", metavar="MODEL", help="the model whose captions the images are generated for")


def clip_of(args) -> tuple:
    """The CLIP model of the arguments, and the captions of the images; (None, []) without one. Raises UserError for one
    without captions or weights."""
    if args.clip:
        from harmonica.evaluation.features.clip import SHIPPED, Clip

        if not args.captions:
            raise UserError("the CLIP score needs the captions of the images: pass --captions MODEL")
        if args.clip != SHIPPED and not args.clip_pretrained:
            raise UserError(f"the CLIP model {args.clip} would have random weights: pass --clip-pretrained TAG")
        return Clip(args.clip, args.clip_pretrained), captioned(args.captions).captions.read()
    return None, []


def networks(name: str, clip=None, captions=()) -> tuple:
    """The function that extracts what the metrics need of images and labels, by the network of that name and maybe a
    CLIP model, and their names for a JSON."""
    from harmonica.evaluation.evaluate import extractor
    from harmonica.evaluation.features.networks import get_extractor

    about = {"extractor": name} | ({"clip_model": clip.name} if clip else {})
    return extractor(name, get_extractor(name), clip, captions), about


def hardware(precision: str) -> dict[str, str]:
    """What a result was computed on, for its JSON."""
    from harmonica.utils import provenance

    return {"device": provenance.device(), "precision": precision}


def seed(text: str) -> int:
    """A seed on the command line."""
    from harmonica.experiments import identity

    identity.check_seed(value := int(text))
    return value


def count(text: str) -> int:
    """A number of things on the command line, at least 1."""
    value = int(text)
    if value < 1:
        raise UserError(f"a number of images or pixels must be at least 1, got {value}")
    return value


def image_seed_argument(parser) -> None:
    parser.add_argument("--seed", type=seed, default=0, help="of the images: noise and labels; default: %(default)s")


def plans_argument(parser) -> None:
    parser.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
