"""`harmonica recommend`"""

from pathlib import Path

from harmonica.sharing.measured import REFERENCE

HELP = "The plan to use for a model and a speed-up, from a measured table."
EXAMPLE = "harmonica recommend --model pocket-dit --speedup 3"
AGAINST = {"uncached": "PSNR", "converged": "PSNR_converged"}
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
    from harmonica.sharing import measured, shipped_plans, table_files

    path, metric = args.table or _default(), AGAINST[args.against]
    found = measured.read(path)
    rows = measured.ranked(found, args.model, args.speedup, args.steps, metric, path)
    print(text(rows, found[found.model == get_model(args.model).title], metric, args.against, path))
    shipped = shipped_plans.of_row(rows.iloc[0].slugs, table_files.read_provenance(path))
    if shipped:
        print(f"this very plan is shipped: {shipped}")


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


def _default() -> Path:
    own = Path("results/pocket/frontier.csv")
    reference = REFERENCE / "frontier.csv"  # of a checkout
    return reference if reference.is_file() and not own.is_file() else own
