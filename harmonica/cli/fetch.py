"""`harmonica fetch`"""

from pathlib import Path

HELP = "Download weights and reference files; resumes where it was interrupted."
EXAMPLE = "harmonica fetch dit-xl-2-256 DDIM20_router.pt facebook/DiT-XL-2-512"


def add_arguments(parser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        help="models, files, or OWNER/NAME of a pipeline of the hub; without any, what is known is listed",
    )
    parser.add_argument("--done", type=Path, help="write the hashes of the files (JSON)")


def run(args) -> None:
    from harmonica.models import MODELS, downloads, get_model
    from harmonica.models.own import REPOSITORY
    from harmonica.utils import file_hash, write_json

    if not args.names:
        for f in downloads.FILES.values():
            print(f"{f.name:45} {f.what}")
        for model in (m for m in MODELS.values() if m.hub):
            print(f"{model.name:45} {model.title} {model.resolution}, {model.source}")
        return
    files = []
    for name in args.names:
        if name in downloads.FILES:
            path = downloads.fetch(name)
            files.append((path, path.parent))
        elif REPOSITORY.fullmatch(name) and not Path(name).is_dir():
            path = downloads.fetch_repository(name)
            files += [(p, path) for p in sorted(path.rglob("*")) if p.is_file()]
        else:
            folders = downloads.fetch_model(get_model(name))
            files += [(p, f.parent.parent) for f in folders for p in sorted(f.iterdir()) if p.is_file()]
            path = folders[0].parent
        print(path)
    if args.done:
        write_json(args.done, {str(p.relative_to(folder)): file_hash(p) for p, folder in files})
