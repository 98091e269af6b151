"""`harmonica smoke`"""

HELP = "Run a paper-scale model at its true shape, with random weights."
EXAMPLE = "harmonica smoke --scale paper --model pixart-alpha-1024"


def add_arguments(parser) -> None:
    parser.add_argument("--scale", choices=["paper"], default="paper", help="default: %(default)s")
    parser.add_argument("--model", default="dit-xl-2-256", help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="T, sampling steps; default: 10, from 1024 pixels on 2")
    parser.add_argument("--blocks", type=int, help="default: all; above 1024 pixels on a CPU 2")


def run(args) -> None:
    from harmonica.checks.smoke import smoke

    smoke(args.model, args.steps, args.blocks)
