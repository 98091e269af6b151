"""`harmonica fetch`"""

from pathlib import Path

HELP = "Download weights and reference files; resumes where it was interrupted."
EXAMPLE = "harmonica fetch dit-xl-2-256 DDIM20_router.pt"


def add_arguments(parser) -> None:
    parser.add_argument("names", nargs="*", help="models and files; without any, they are listed")
    parser.add_argument("--done", type=Path, help="write the hashes of the files (JSON)")


def run(args) -> None:
    from harmonica.models import MODELS, downloads, get_model
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
        else:
            folders = downloads.fetch_model(get_model(name))
            files += [(p, f.parent.parent) for f in folders for p in sorted(f.iterdir()) if p.is_file()]
            path = folders[0].parent
        print(path)
    if args.done:
        write_json(args.done, {str(p.relative_to(folder)): file_hash(p) for p, folder in files})
