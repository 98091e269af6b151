"""`harmonica plans`"""

import argparse
import shlex

HELP = "Make several plans in one process, each as `harmonica plan` makes it."
EXAMPLE = """harmonica plans '{"full.safetensors": "full --steps 20", "fora.safetensors": "fora --steps 20"}'"""


def add_arguments(parser) -> None:
    parser.add_argument("plans", metavar="JSON", help="arguments of `harmonica plan` by plan file; or a file with it")


def run(args) -> None:
    from harmonica.cli import plan
    from harmonica.experiments.config import from_text

    parser = argparse.ArgumentParser(prog="harmonica plan")
    plan.add_arguments(parser)
    for file, arguments in from_text(args.plans).items():
        plan.run(parser.parse_args([*shlex.split(arguments), "--out", file]))
