"""`harmonica plan`"""

import os
import sys
from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils import UserError

HELP = "Make (or train) the caching plan of a method."
EXAMPLE = "harmonica plan harmonica --steps 10 --set target_cur=22.86 -o hc.safetensors"


def add_arguments(parser) -> None:
    parser.add_argument("method", help="see `harmonica methods`")
    parser.add_argument("--model", default="pocket-dit", help="default: %(default)s")
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--steps", type=int, default=50, help="T, sampling steps; default: %(default)s")
    parser.add_argument("--cfg", type=float, help="guidance scale; default: the model's")
    parser.add_argument("--seed", type=int, default=0,
                        help="of a training, or of random choices; default: %(default)s")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting of the method; repeatable")  # fmt: skip
    parser.add_argument("--from", dest="sources", action="append", default=[], metavar="PLAN",
                        help="a plan that the method starts from")  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, metavar="N",
                        help="that share a training, each with a GPU; default: this one")  # fmt: skip
    _shared.compute_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="plan file; a trained router is written beside it"
    )


def run(args) -> None:
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if args.processes > 1 and not several:
        _share(args.processes)
    from harmonica.experiments import Experiment
    from harmonica.models import get_model
    from harmonica.plan import Plan
    from harmonica.training import LearnedSettings
    from harmonica.utils.memory import budget

    given = {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, got {item!r}")
        given[key] = _number(value)
    model = get_model(args.model)
    sampler, cfg = args.sampler or model.sampler, model.cfg if args.cfg is None else args.cfg
    e = Experiment.of(args.model, sampler, args.steps, cfg, args.method, given, args.seed)
    sources = {}
    for path in args.sources:
        source = Plan.load(path)
        sampler, steps = e.source
        source.check_fits(model=args.model, sampler=sampler, steps=steps, layout=_shared.layout_of(source))
        sources[source.origin.method] = source
    _shared.loaded()
    if several:
        from harmonica.training import distributed

        distributed.start()
    memory = budget(args.memory) if isinstance(e.method, LearnedSettings) else None
    plan, router = e.make(sources, args.out, _shared.loaded, args.precision, memory)
    if several:
        first = distributed.rank() == 0
        distributed.stop()
        if not first:
            return
    _shared.save_plan(plan, router, args.out)
    if router is not None:
        from harmonica.training import checkpoint

        checkpoint.remove(args.out)
    cost = "".join(f", {k} = {v:g}" for k, v in plan.origin.cost.items())
    print(f"{e.slug}: {_shared.summary(plan)}{cost}")


def _share(processes: int) -> None:
    """Continue as torchrun, which starts this command so many times."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sys.stdout.flush()
    os.execv(sys.executable, [*torchrun, "-m", "harmonica", *sys.argv[1:]])


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
