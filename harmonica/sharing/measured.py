"""What a table measured of a plan. A table's provenance has the protocol and origin of every row's plan: they tell
which row is of a plan, whatever its file is called."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonica.models import get_model
from harmonica.plan import Plan, Protocol, macs
from harmonica.sharing import table_files
from harmonica.utils import ROOT, UserError

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = ROOT / "results" / "reference" / "pocket"
NEAR = 0.93  # of a requested speed-up; numbers of steps are whole
COLUMNS = {"theoretical_speedup", "GMACs", "samples", "extractor"}  # of a table of images
SHOWN = ("PSNR", "PSNR_worst", "SSIM", "LPIPS", "FID_uncached", "FID", "IS", "CLIP", "PSNR_converged", "FID_converged")


def read(path: Path) -> "pd.DataFrame":
    """A table of images with what its provenance knows of every line: name of the method, arguments for `harmonica
    plan`, steps of the uncached run, and the slugs of its plans, one a training seed.

    Raises UserError if either file is missing or damaged, or they do not belong together.
    """
    import pandas as pd

    from harmonica.experiments import config as configuration

    table, about = table_files.read(path)
    if not COLUMNS <= set(table):
        raise UserError(f"{path} is not a table of images of the workflow: it lacks {sorted(COLUMNS - set(table))}")
    try:
        lines = configuration.by_method(configuration.rows(about["config"]))
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"another version made {path}: its configuration cannot be read ({e!r})") from None
    if len(lines) != len(table):
        raise UserError(f"another version made {path}: it has {len(table)} rows, its configuration {len(lines)}")
    experiments = [line[0].experiment for line in lines]
    return table.copy().assign(
        name=[e.name for e in experiments],
        arguments=[line[0].arguments for line in lines],
        uncached_steps=[e.protocol.steps for e in experiments],
        compressed=[e.compression is not None for e in experiments],
        slugs=pd.Series([tuple(r.slug for r in line) for line in lines], table.index, object),
    )


def ranked(
    table: "pd.DataFrame", model: str, speedup: float, steps: int | None, metric: str, path: Path
) -> "pd.DataFrame":
    """The rows of a model that save `speedup`, the best by `metric` first, against `steps` uncached steps or those of
    the model's first case. Raises UserError, which names the table's `path`, if there are none."""
    of_model = table[table.model == get_model(model).title]
    steps = steps or (int(of_model.uncached_steps.iloc[0]) if len(of_model) else 0)
    rows = of_model[(of_model.uncached_steps == steps) & (of_model.name != "full")]
    rows = rows[rows.theoretical_speedup >= NEAR * speedup]
    rows = rows.dropna(subset=[metric]).sort_values(metric, ascending=False).drop_duplicates("arguments")
    if rows.empty:
        raise UserError(
            f"{path} has no row of {model} with {steps} steps that saves {speedup:g}x: lower --speedup, or "
            "measure one (`snakemake results/frontier.csv`)"
        )
    return rows


@dataclass(frozen=True)
class Quality:
    """The row of a table that is of one plan, and the uncached row beside it."""

    table: str  # its name
    row: dict[str, Any]
    uncached: dict[str, Any]
    about: dict[str, Any]  # the table's provenance

    def rows(self) -> list[tuple[str, str]]:
        """Headings and values, with half of their 95 % intervals."""
        from harmonica.evaluation.metrics import METRICS

        out = []
        for name in SHOWN:
            if _known(self.row, name):
                before = _value(self.uncached, name, METRICS[name].format)
                beside = f" (uncached: {before})" if name in ("FID", "IS", "CLIP", "PSNR_converged") else ""
                out.append((METRICS[name].heading, _value(self.row, name, METRICS[name].format) + beside))
        if _known(self.row, "speedup"):
            low, high = self.row["speedup_q1"], self.row["speedup_q3"]
            out.append(("measured speed-up ↑", f"{self.row['speedup']:.2f}x (quartiles {low:.2f} to {high:.2f})"))
        if _known(self.row, "cache_MB"):
            out.append(("cache, MB an image ↓", f"{self.row['cache_MB']:.3g}"))
        return out

    def conditions(self) -> str:
        """How many images, compared with what, by which table, where and when."""
        devices = {f"{made['device']}, {made['precision']}" for made in self.about.get("images_made_on", [])}
        on = f" on {' and '.join(sorted(devices))}" if devices else ""
        return (
            f"{int(self.row['samples'])} images, with the seeds of those of {self.uncached['steps']} uncached steps of "
            f"{self.uncached['sampler']}; features of {self.row['extractor']}. Table {self.table}, made{on}, commit "
            f"{self.about['commit']}, {self.about['written'][:10]}. ± is half of a 95 % interval."
        )


@dataclass(frozen=True)
class OnPipeline:
    """The row of `harmonica compare` that is of one plan."""

    row: dict[str, Any]
    about: dict[str, Any]  # the table's provenance
    table: str = "compare"

    def rows(self) -> list[tuple[str, str]]:
        """Headings and values, with half of their 95 % intervals."""
        names = {"PSNR": "PSNR ↑", "latent_PSNR": "PSNR of latents ↑"}
        out = [(names[k], _value(self.row, k, "{:.2f}") + " dB") for k in names if _known(self.row, k)]
        low, high = self.row["speedup_q1"], self.row["speedup_q3"]
        return [*out, ("measured speed-up ↑", f"{self.row['speedup']:.2f}x (quartiles {low:.2f} to {high:.2f})")]

    def conditions(self) -> str:
        """How many images, compared with what, on which machine and when."""
        (made,) = self.about["images_made_on"]
        return (
            f"{self.about['images']} images of {self.about['config']['pipeline']} that no method learned from, to the "
            f"uncached images of the same seeds; by `harmonica compare`, on {made['device']}, {made['precision']}, "
            f"commit {self.about['commit']}, {self.about['written'][:10]}. ± is half of a 95 % interval."
        )


def quality_of(plan: Plan, tables: Iterable[Path]) -> Quality | OnPipeline | None:
    """What the table with the most images measured of this very plan; None if none did.

    A row is of the plan if its protocol and its origin, with what the method found and what that cost, are the plan's,
    and so are its MACs; versions of packages may differ. Means over training seeds, and rows of a compressed model, are
    of no single plan. Raises UserError for a table that cannot be read.
    """
    found = [q for path in tables if (q := _in_table(plan, path))]
    return max(found, key=lambda q: q.row.get("samples", 0), default=None)


def reference_tables() -> list[Path]:
    """The tables of images of the committed reference run; none where the package is installed without the checkout."""
    found = (path for path in sorted(REFERENCE.glob("*.csv")) if table_files.provenance_of(path).is_file())
    return [path for path in found if set(path.read_text("utf-8").partition("\n")[0].split(",")) >= COLUMNS]


def slugs_of(plan: Plan, about: dict[str, Any]) -> list[str]:
    """The rows of a table, by their slugs, whose plan this is, from the table's provenance."""
    own = json.loads(json.dumps(asdict(plan.origin)))
    protocols, origins = about.get("protocols", {}), about.get("origins", {})
    return [
        slug
        for slug, origin in origins.items()
        if slug in protocols and Protocol(**protocols[slug]) == plan.protocol and _identity(origin) == _identity(own)
    ]


def _identity(origin: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in origin.items() if k != "versions"}


def _in_table(plan: Plan, path: Path) -> Quality | OnPipeline | None:
    found, about = table_files.read(path)
    if "pipeline" in about["config"]:
        own = slugs_of(plan, about)
        return OnPipeline(_values(found.iloc[int(own[0])]), about) if own else None
    slugs = {(slug,) for slug in slugs_of(plan, about)}
    if not slugs:
        return None
    table = read(path)
    for _, line in table[table.slugs.isin(slugs) & ~table.compressed].iterrows():
        uncached = table[(table["name"] == "full") & ~table.compressed & (table.case == line.case)]
        if len(uncached) and _same_macs(plan, line.GMACs):
            return Quality(path.stem, _values(line), _values(uncached.iloc[0]), about)
    return None


def _same_macs(plan: Plan, gmacs: float) -> bool:
    """Whether a table's GMACs, of both guidance halves, are the plan's; those of a rule were measured."""
    own = macs(plan, get_model(plan.protocol.model).layout) * (1 if plan.protocol.cfg == 1 else 2) / 1e9
    return plan.rule is not None or math.isclose(own, gmacs, rel_tol=1e-4)


def _values(line: "pd.Series") -> dict[str, Any]:
    return {str(k): v for k, v in line.items()}


def _known(row: dict[str, Any], name: str) -> bool:
    return row.get(name) is not None and not math.isnan(row[name])


def _value(row: dict[str, Any], name: str, form: str) -> str:
    """A metric with half of its interval, if it has one."""
    text = form.format(row[name])
    if not _known(row, f"{name}_low"):
        return text
    return f"{text} ±{form.format((row[f'{name}_high'] - row[f'{name}_low']) / 2)}"
