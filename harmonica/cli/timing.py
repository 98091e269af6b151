"""`harmonica timing`"""

from pathlib import Path

HELP = "Report where a workflow run spent its time."
EXAMPLE = "harmonica timing results/"


def add_arguments(parser) -> None:
    parser.add_argument("folder", type=Path)


def run(args) -> None:
    from harmonica.checks.timing import report

    print(report(args.folder))
