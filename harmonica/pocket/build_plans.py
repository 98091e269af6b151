"""From a finished run of the frontier to the shipped plans: of every model and speed-up the one that `harmonica
recommend` names.

    python -c "from harmonica.pocket import build_plans; build_plans.build('results/pocket')"
"""

from pathlib import Path

import pandas as pd

from harmonica.plan import Plan
from harmonica.sharing import measured, table_files
from harmonica.sharing.facts import local_paths
from harmonica.sharing.shipped_plans import FOLDER
from harmonica.utils import UserError, write_atomic

MODELS = ("pocket-dit", "pocket-pixart", "pocket-uvit")
SPEEDUPS = (2, 3, 4)


def build(results: str | Path, out: Path = FOLDER) -> None:
    """Copy the plans of a run's folder `results`, which has `frontier.csv` and `plans/`, and write their index. Raises
    UserError if a file is not the plan of the row that it is named after."""
    path = Path(results) / "frontier.csv"
    table, about = measured.read(path), table_files.read_provenance(path)
    index = []
    for model in MODELS:
        for speedup in SPEEDUPS:
            row = measured.ranked(table, model, speedup, None, "PSNR", path).iloc[0]
            (slug,) = row.slugs
            source = Path(results) / "plans" / f"{slug}.safetensors"
            plan = Plan.load(source)
            quality = measured.quality_of(plan, [path])
            if slug not in measured.slugs_of(plan, about) or quality is None or local_paths(plan.origin):
                raise UserError(f"{source} is not the plan that {path} measured, or names a local path")
            name = f"{model}-{speedup}x.safetensors"
            write_atomic(out / name, source.read_bytes())
            index.append(_line(name, plan, row))
    write_atomic(out / "README.md", _HEAD.format(commit=about["commit"]) + "\n".join(index) + "\n")


def _line(name: str, plan: Plan, row: pd.Series) -> str:
    half = (row.PSNR_high - row.PSNR_low) / 2
    p = plan.protocol
    return (
        f"| [{name}]({name}) | {row.method} | {p.sampler}, {p.steps} steps, guidance {p.cfg:g} | {plan.cur:.2f} | "
        f"{row.theoretical_speedup:.2f} | {row.PSNR:.2f} ±{half:.2f} |"
    )


_HEAD = """# Plans of the shipped models

Of every model and speed-up the plan that `harmonica recommend` names: of the rows that save as much, its images are
closest to the uncached ones. `harmonica show FILE` prints one with all that was measured. The table is written by
`harmonica/pocket/build_plans.py`, from the frontier's run at commit {commit}.

| file | method | protocol | CUR % | theory × | PSNR to uncached, dB |
|---|---|---|---|---|---|
"""
