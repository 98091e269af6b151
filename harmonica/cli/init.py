"""`harmonica init`"""

from pathlib import Path

HELP = "Lay out a folder for a benchmark of your own: its configuration, a Snakefile, a profile."
EXAMPLE = "harmonica init my-bench/"


def add_arguments(parser) -> None:
    parser.add_argument("folder", type=Path, help="new, or empty")


def run(args) -> None:
    from harmonica.utils import WORKFLOW, UserError, write_atomic

    folder, template = args.folder, WORKFLOW / "template"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    files = {p.relative_to(template): p for p in sorted(template.rglob("*")) if p.is_file()}
    for name, path in (files | {Path("configuration.md"): WORKFLOW / "config" / "README.md"}).items():
        write_atomic(folder / name, path.read_bytes())
    print(f"{folder}: config.yaml says what is measured; in it `snakemake -n` lists the jobs, `snakemake` runs them")
