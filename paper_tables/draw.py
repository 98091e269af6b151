"""Figures that are of no single table: `python -m paper_tables.draw sweep --help`."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from harmonica import methods, released
from harmonica.errors import UserError, guarded
from harmonica.models import get_model
from harmonica.plan import Plan
from paper_tables import figures, published


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paper_tables.draw", description=__doc__)
    figure = parser.add_subparsers(required=True)

    def command(function, text: str, what: str) -> argparse.ArgumentParser:
        p = figure.add_parser(function.__name__, help=text, description=text)
        p.add_argument("files", type=Path, nargs="+", help=what)
        p.add_argument("-o", "--out", type=Path, required=True, help=".png; a .pdf is written beside it")
        p.set_defaults(function=function)
        return p

    command(sweep, "IS and FID against speed-up, with the paper's points.", "results/sweep.csv")
    command(drift, "Error of x_t along the trajectory.", "made by `harmonica drift`").add_argument(
        "--plans", type=Path, nargs="+", required=True
    )
    command(lambdas, "λ over the steps.", "HarmoniCa's plans")
    command(memory, "The memory of the caches.", "results/table1.csv").add_argument("--model", required=True)
    command(routers, "Released routers.", "router files")
    args = parser.parse_args(argv)
    return guarded("paper_tables.draw", lambda: args.function(args))


def sweep(args) -> None:
    figures.sweep(pd.read_csv(args.files[0]), published.table("figure_speedup_sweep"), args.out)


def drift(args) -> None:
    plans = {p.stem: Plan.load(p) for p in args.plans}
    errors = json.loads(args.files[0].read_text())
    titles = {}
    for name in errors:
        o = plans[name].origin
        titles[name] = methods.title(o.method, methods.make_settings(o.method, o.settings))
    o = next(iter(plans.values())).origin
    figures.drift(errors, titles, f"{get_model(o.model).title}, {o.sampler}, {o.steps} steps", args.out)


def lambdas(args) -> None:
    plans = {p.stem: Plan.load(p) for p in args.files}
    for name, plan in plans.items():
        if "lambda_by_step" not in plan.origin.notes:
            raise UserError(f"{name} was not trained with λ")
    figures.lambdas(plans, args.out)


def memory(args) -> None:
    figures.memory(pd.read_csv(args.files[0]), get_model(args.model).weight_bytes, args.out)


def routers(args) -> None:
    found = {p.name: released.read(p).router() for p in args.files}
    thresholds = {name: released.threshold(r.origin.model) for name, r in found.items()}
    figures.released(found, thresholds, args.out)


if __name__ == "__main__":
    sys.exit(main())
