"""`harmonica replay`"""

import os
from pathlib import Path

from harmonica.utils.precision import PRECISIONS

HELP = "Replay a reference trace of the published code; exits 1 if this code differs."
EXAMPLE = "harmonica replay tests/conformance/data/harmonica_dit_T10.safetensors"


def add_arguments(parser) -> None:
    parser.add_argument("trace", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32",
                        help="of the branches; each has its tolerances; default: %(default)s")  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU if there is one")


def run(args) -> int:
    from harmonica.checks.replay import RELATIVE, replay
    from harmonica.utils.devices import VARIABLE, default_device

    if args.device:
        os.environ[VARIABLE] = args.device  # before the device is chosen
        default_device.cache_clear()
    failed = 0
    for k, c in enumerate(replay(args.trace, args.precision)):
        if not k:
            print(f"{'quantity':32} {'largest error':>13}  tolerance")
        failed += not c.passed
        mark = "" if c.passed else "  OVER"
        kind = "relative" if c.kind in RELATIVE else "absolute"
        print(f"{c.quantity:32} {c.error:13.2e}  {c.tolerance:g} {kind}{mark}", flush=True)
    print(f"{failed} quantities exceed their tolerance" if failed else "every quantity is within its tolerance")
    return int(failed > 0)
