"""`harmonica push`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Upload plans or routers to a Hugging Face hub repository, with a card of what they are and what was measured."
EXAMPLE = "harmonica push plan.safetensors you/dit-plans --quality results/frontier.csv"


def add_arguments(parser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="made by `harmonica plan`")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="of a new repository; a public one is refused")
    parser.add_argument("--message", metavar="TEXT", help="of the commit; default: the names of the plans")
    parser.add_argument("--revision", metavar="BRANCH", help="made if it does not exist; default: main")
    _shared.quality_argument(parser)


def run(args) -> None:
    from harmonica.sharing import files, hub
    from harmonica.utils import UserError

    made = {}
    for path in args.files:
        own = files.load(path)
        made[path] = own, _shared.quality(own, args.quality)
    if args.quality and not any(quality for _, quality in made.values()):
        raise UserError(f"{args.quality} has no row of exactly these plans: nothing was pushed")
    print(hub.push(made, args.repository, args.private, args.message, args.revision))
    for path, (_, quality) in made.items():
        print(f"{path.name}: " + (f"quality from table {quality.table}" if quality else "quality not measured"))
