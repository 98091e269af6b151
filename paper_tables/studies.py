"""Studies, not tables of the paper: their rows are told apart by what is set, and have no published numbers.

`sweep` is of the paper's figure of IS and FID against speed-up: Learning-to-Cache and HarmoniCa from little to much
reuse, at one number of steps. `ablations` are one choice of HarmoniCa at a time, a block a study.
"""

from paper_tables.layout import Table


def _study(title: str) -> Table:
    return Table(
        title=title,
        metrics=("IS", "FID", "cleanfid_FID", "sFID", "precision", "recall", "PSNR"),
        shown=("IS", "FID", "sFID", "PSNR"),
        figure=("FID", "IS"),
        published=lambda e, steps, model: {},
        source="",
        settings=True,
    )


SWEEP, ABLATIONS = _study("Sweep"), _study("Ablations")
