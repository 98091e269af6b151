"""`harmonica figure`"""

from pathlib import Path

HELP = "Draw a figure that belongs to no single table."
EXAMPLE = "harmonica figure sweep results/pocket/sweep.csv -o sweep.png"


def add_arguments(parser) -> None:
    figure = parser.add_subparsers(required=True, metavar="FIGURE")

    def command(function, text: str, what: str):
        p = figure.add_parser(function.__name__, help=text, description=text)
        p.add_argument("files", type=Path, nargs="+", help=what)
        p.add_argument("-o", "--out", type=Path, required=True, help=".png; a .pdf is written beside it")
        p.set_defaults(draw=function)
        return p

    command(sweep, "IS and FID against speed-up, with the paper's points.", "results/pocket/sweep.csv")
    command(drift, "Error of x_t along the trajectory.", "made by `harmonica drift`").add_argument(
        "--plans", type=Path, nargs="+", required=True
    )
    command(lambdas, "λ over the steps.", "HarmoniCa's plans")
    command(memory, "The memory of the caches.", "results/pocket/table1.csv").add_argument("--model", required=True)
    command(routers, "Released routers.", "router files")


def run(args) -> None:
    args.draw(args)


def sweep(args) -> None:
    import pandas as pd

    from harmonica.sharing import table_files
    from paper_tables import figures, published

    table, about = table_files.read(args.files[0])
    seeds = pd.DataFrame(about.get("by_training_seed", []))
    figures.sweep(table, seeds, published.table("figure_speedup_sweep"), args.out)


def drift(args) -> None:
    from harmonica.evaluation.records import Drift
    from harmonica.methods import get_method
    from harmonica.models import get_model
    from harmonica.plan import Plan
    from harmonica.utils import UserError, parse
    from paper_tables import figures

    plans = {p.stem: Plan.load(p) for p in args.plans}
    errors = Drift.load(args.files[0]).drift
    titles = {}
    for name in errors:
        if name not in plans:
            raise UserError(f"{args.files[0]} has the drift of {name}, whose plan is not among those passed")
        o = plans[name].origin
        titles[name] = parse(get_method(o.method), o.method, o.settings).label()
    p = next(iter(plans.values())).protocol
    figures.drift(errors, titles, f"{get_model(p.model).title}, {p.sampler}, {p.steps} steps", args.out)


def lambdas(args) -> None:
    from harmonica.plan import Plan
    from harmonica.utils import UserError
    from paper_tables import figures

    plans = {p.stem: Plan.load(p) for p in args.files}
    for name, plan in plans.items():
        if "lambda_by_step" not in plan.origin.notes:
            raise UserError(f"{name} was not trained with λ")
    figures.lambdas(plans, args.out)


def memory(args) -> None:
    from harmonica.models import get_model
    from harmonica.models.random_weights import weight_bytes
    from harmonica.sharing import table_files
    from paper_tables import figures

    figures.memory(table_files.read(args.files[0])[0], weight_bytes(get_model(args.model)), args.out)


def routers(args) -> None:
    from harmonica.methods import released_routers as released
    from paper_tables import figures

    found = {p.name: released.read(p).router() for p in args.files}
    thresholds = {name: released.threshold(r.protocol.model) for name, r in found.items()}
    figures.released(found, thresholds, args.out)
