"""`harmonica pull`"""

from pathlib import Path

HELP = "Download a plan or router from a Hugging Face hub repository; anything else is refused."
EXAMPLE = "harmonica pull you/dit-plans plan.safetensors -o plan.safetensors"


def add_arguments(parser) -> None:
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME")
    parser.add_argument("file", nargs="?", metavar="FILE", help="in the repository; default: its only plan")
    parser.add_argument("-o", "--out", type=Path, metavar="PATH",
                        help="a file, or a folder to put it into; default: its own name here")  # fmt: skip
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit; default: main")


def run(args) -> None:
    from harmonica.sharing import facts, hub

    path, made = hub.pull(args.repository, args.file, args.out, args.revision)
    print(f"{path}: {facts.headline(made)}")
