"""`harmonica export-router`"""

from pathlib import Path

HELP = "Write a trained router in the released layout."
EXAMPLE = "harmonica export-router hc.router.safetensors -o router.pt"


def add_arguments(parser) -> None:
    parser.add_argument("router", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.methods import released_routers as released
    from harmonica.plan import Router

    router = Router.load(args.router)
    released.write(router, args.out)
    if "threshold" in router.origin.notes:  # one trained here, whose plan may need another than the usual
        print(f"{args.out}: its plan computes where r > {router.origin.notes['threshold']:g}")
