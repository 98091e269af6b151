"""`harmonica estimate`"""

import sys
from functools import cache
from pathlib import Path

from harmonica.utils import unknown

HELP = "Estimate tables' cost before they are made: hours, disk and peak memory of every rule."
EXAMPLE = "harmonica estimate table1 --scale paper --device h100 --gpus 4"


def add_arguments(parser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TABLE", help="results/table1.csv, or table1")
    parser.add_argument("--scale", choices=["pocket", "paper"], help="default: the configuration's, or pocket")
    parser.add_argument("--device", metavar="GPU",
                        help="h100, h200, a100 or rtx4090, by published speed; default: as configured")  # fmt: skip
    parser.add_argument("--measure", action="store_true",
                        help="time this machine's device instead; always so at the pocket scale")  # fmt: skip
    parser.add_argument("--gpus", type=int, default=1, help="that run jobs side by side; default: %(default)s")
    parser.add_argument("--cores", type=int, help="of a run at the pocket scale; default: this machine's")
    parser.add_argument("--simulate", type=int, nargs="+", metavar="N",
                        help="also simulate the run on so many GPUs or cores")  # fmt: skip
    parser.add_argument("--machine", type=int, default=8, metavar="N",
                        help="GPUs of one machine of the simulated run; default: %(default)s")  # fmt: skip
    parser.add_argument("--images", type=int, help="per row; default: as configured")
    parser.add_argument("--configfile", type=Path, help="your own configuration, as for the workflow")
    parser.add_argument("--config", metavar="JSON", help="keys that override it, as JSON")


def run(args) -> None:
    from harmonica.checks import estimate, published
    from harmonica.experiments import config

    given = {} if args.configfile is None else config.from_yaml(args.configfile)
    given |= config.from_text(args.config) if args.config else {}
    scale = args.scale or given.get("scale", "pocket")
    given |= {"scale": scale} | ({} if args.images is None else {"images": args.images})
    known = config.of_scale(scale, given)
    names = [Path(t).stem for t in args.targets]
    for name in names:
        if name not in known:
            raise unknown("table", name, known)
    tables = {n: known[n] for n in names}
    if not args.measure and scale == "paper":
        device = args.device or tables[names[0]]["device"]
        gpu = published.get_gpu(device)
        for about in tables.values():
            usable = round(0.92 * gpu.memory, 1)
            if about.get("gpu_memory", 0) > usable:
                about["gpu_memory"] = usable
                print(f"{gpu.title} has {gpu.memory} GiB: estimated with gpu_memory={usable}", file=sys.stderr)
        jobs = estimate.Estimate(tables, lambda model: published.Published(model, gpu)).jobs()
        print(estimate.text(jobs, args.gpus, device))
        if args.simulate:
            print(estimate.simulation(jobs, args.simulate, args.machine))
        return
    import torch

    from harmonica.checks.measured import Machine
    from harmonica.utils import provenance
    from harmonica.utils.devices import default_device

    on_gpu = default_device().type == "cuda"
    if not on_gpu and scale == "pocket":
        torch.set_num_threads(1)  # as in the workflow's jobs
    start_up = estimate.START_UP_S if scale == "paper" else estimate.POCKET_START_UP_S
    jobs = estimate.Estimate(tables, cache(Machine), start_up).jobs()
    cores = args.cores or provenance.usable_cores()
    unit = "GPU" if on_gpu else "core"
    print(estimate.text(jobs, args.gpus if on_gpu else cores, provenance.device(), unit))
    if args.simulate:
        print(estimate.simulation(jobs, args.simulate, args.machine, unit))
