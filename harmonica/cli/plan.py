"""`harmonica plan`"""

import os
import sys
from pathlib import Path

from harmonica.cli import _shared
from harmonica.experiments import pipelines
from harmonica.utils import UserError

HELP = "Make (or train) the caching plan of a method."
EXAMPLE = (
    "harmonica plan harmonica --steps 10 --set target_cur=22.86 -o hc.safetensors\n"
    "  harmonica plan step_search --pipeline FOLDER --prompts prompts.txt --steps 28 -o searched.safetensors"
)


def add_arguments(parser) -> None:
    parser.add_argument("method", help="see `harmonica methods`")
    _shared.protocol_arguments(parser)
    parser.add_argument("--seed", type=_shared.seed, default=0,
                        help="of a training, or of random choices; default: %(default)s")  # fmt: skip
    _shared.settings_argument(parser, "method")
    parser.add_argument("--from", dest="sources", action="append", default=[], metavar="PLAN",
                        help="a plan that the method starts from")  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, metavar="N",
                        help="that share a training, each with a GPU; default: this one")  # fmt: skip
    parser.add_argument("--compression", type=Path, metavar="FILE",
                        help="made by `harmonica compress`: a router is trained on it")  # fmt: skip
    pipelines.add_arguments(parser)
    _shared.compute_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="plan file; a trained router is written beside it"
    )


def run(args) -> None:
    if args.pipeline:
        _on_pipeline(args)
        return
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if args.processes > 1 and not several:
        _share(args.processes)
    from harmonica.compression import Compression
    from harmonica.experiments import Experiment
    from harmonica.plan import Plan
    from harmonica.training import LearnedSettings
    from harmonica.utils.memory import budget

    p, given = _shared.protocol_of(args), _shared.settings_of(args)
    e = Experiment.of(p.model, p.sampler, p.steps, p.cfg, args.method, given, args.seed)
    compression = Compression.load(args.compression) if args.compression else None
    sources = {}
    for path in args.sources:
        source = Plan.load(path)
        sampler, steps = e.source
        source.check_fits(model=p.model, sampler=sampler, steps=steps, layout=_shared.layout_of(source))
        sources[source.origin.method] = source
    _shared.loaded()
    if several:
        from harmonica.training import distributed

        distributed.start()
    memory = budget(args.memory) if isinstance(e.method, LearnedSettings) else None
    plan, router = e.make(sources, args.out, _shared.loaded, args.precision, memory, compression)
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


def _on_pipeline(args) -> None:
    ours = {"--model": args.model != _shared.MODEL_DEFAULT, "--sampler": args.sampler, "--from": args.sources,
            "--compression": args.compression, "--processes": args.processes > 1, "--memory": args.memory}  # fmt: skip
    unfit = [name for name, value in ours.items() if value]
    if unfit:
        raise UserError(f"{' and '.join(unfit)} does not go together with --pipeline")
    calls, given = pipelines.calls_of(args), _shared.settings_of(args)
    plan = pipelines.plan_on_pipeline(calls, args.method, given, args.seed, _shared.loaded)
    plan.save(args.out)
    cost = "".join(f", {k} = {v:g}" for k, v in plan.origin.cost.items())
    print(f"{args.method} for {plan.protocol.model}: {_shared.summary(plan)}{cost}")


def _share(processes: int) -> None:
    """Continue as torchrun, which starts this command so many times."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sys.stdout.flush()
    os.execv(sys.executable, [*torchrun, "-m", "harmonica", *sys.argv[1:]])
