"""`harmonica recommend`"""

from pathlib import Path

HELP = "The plan to use for a model and a speed-up, from a measured table."
EXAMPLE = "harmonica recommend --model pocket-dit --speedup 3"
AGAINST = {"uncached": "PSNR", "converged": "PSNR_converged"}
NEAR = 0.93  # of the requested speed-up; numbers of steps are whole
SHOWN = 4  # rivals that are printed


def add_arguments(parser) -> None:
    parser.add_argument("--model", default="pocket-dit", help="default: %(default)s")
    parser.add_argument("--speedup", type=float, default=2.0,
                        help="at least so many times fewer MACs than uncached; default: %(default)g")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of the uncached run; default: those of the table's first case")
    parser.add_argument("--against", choices=AGAINST, default="uncached",
                        help="what images are to come close to: the uncached run's, or the model's converged solution; "
                        "default: %(default)s")  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="CSV",
                        help="with its .provenance.json beside it; default: results/pocket/frontier.csv, or the "
                        "reference run")  # fmt: skip


def run(args) -> None:
    from harmonica.models import get_model
    from harmonica.utils import UserError

    path = args.table or _default()
    found = measured(path)
    title = get_model(args.model).title
    of_model = found[found.model == title]
    steps = args.steps or (int(of_model.uncached_steps.iloc[0]) if len(of_model) else 0)
    rows = of_model[(of_model.uncached_steps == steps) & (of_model.name != "full")]
    rows = rows[rows.theoretical_speedup >= NEAR * args.speedup]
    metric = AGAINST[args.against]
    rows = rows.dropna(subset=[metric]).sort_values(metric, ascending=False).drop_duplicates("arguments")
    if rows.empty:
        raise UserError(
            f"{path} has no row of {args.model} with {steps} steps that saves {args.speedup:g}x: lower --speedup, or "
            "measure one (`snakemake results/frontier.csv`)"
        )
    print(text(rows, of_model, metric, args.against, path))


def text(rows, of_model, metric: str, against: str, path: Path) -> str:
    """The best of `rows` (sorted, best first), its quality, and the rivals that it is better than."""
    best = rows.iloc[0]
    full = of_model[(of_model.name == "full") & (of_model.uncached_steps == best.uncached_steps)].iloc[0]
    lines = [
        f"{best.method}, {best.theoretical_speedup:.2f}x fewer MACs than {full.steps} uncached steps of "
        f"{full['sampler']}:",
        f"  harmonica plan {best.arguments} -o plan.safetensors",
        f"  {_quality(best, metric)} to the {_TARGETS[against]}; FID to the uncached images "
        f"{_interval(best, 'FID_uncached', 4)}",
        f"  measured speed-up {best.speedup:.2f}x (quartiles {best.speedup_q1:.2f} to {best.speedup_q3:.2f}), cache "
        f"{best.cache_MB:.3g} MB an image, made in {best.training_s:.0f} s",
        f"why: of the rows that save as much in {path}, its images are closest; the next are",
    ]
    for _, row in rows.iloc[1 : 1 + SHOWN].iterrows():
        lines.append(f"  {row.method}, {row.theoretical_speedup:.2f}x: {_quality(row, metric)}")
    low = f"{metric}_low"
    if len(rows) > 1 and low in rows and best[low] < rows.iloc[1][f"{metric}_high"]:
        lines.append("their intervals overlap: the first two may be equal")
    return "\n".join(lines)


_TARGETS = {"uncached": "uncached images of the same seeds", "converged": "converged solution of the same seeds"}


def _quality(row, metric: str) -> str:
    return f"PSNR {_interval(row, metric, 2)} dB"


def _interval(row, metric: str, digits: int) -> str:
    half = (row.get(f"{metric}_high", float("nan")) - row.get(f"{metric}_low", float("nan"))) / 2
    return f"{row[metric]:.{digits}f}" + ("" if half != half else f" ±{half:.{digits}f}")


def measured(path: Path):
    """A table of images with what its provenance knows of every line: name of the method, arguments for `harmonica
    plan`, steps of the uncached run. Raises UserError if either file is missing or they do not belong together."""
    import pandas as pd

    from harmonica.experiments import config as configuration
    from harmonica.utils import UserError, read_json

    if not path.is_file():
        raise UserError(f"{path} does not exist: run `snakemake results/{path.stem}.csv`")
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as e:
        raise UserError(f"{path} is not a table ({type(e).__name__})") from None
    provenance = read_json(path.with_suffix(".provenance.json"), "the provenance of a table")
    lines = configuration.by_method(configuration.rows(provenance["config"]))
    if len(lines) != len(table) or "theoretical_speedup" not in table:
        raise UserError(f"{path} and its provenance do not belong together: make the table again")
    experiments = [line[0].experiment for line in lines]
    return table.copy().assign(
        name=[e.name for e in experiments],
        arguments=[line[0].arguments for line in lines],
        uncached_steps=[e.protocol.steps for e in experiments],
    )


def _default() -> Path:
    from harmonica.utils import ROOT

    own = Path("results/pocket/frontier.csv")
    reference = ROOT / "results" / "reference" / "pocket" / "frontier.csv"  # of a checkout
    return reference if reference.is_file() and not own.is_file() else own
