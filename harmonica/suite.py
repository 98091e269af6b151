"""From a configuration to the rows of a table: every case (model × sampler × steps) with every method."""

import shlex
from dataclasses import dataclass, replace
from typing import Any

from harmonica import methods
from harmonica.errors import UserError, unknown
from harmonica.experiment import Experiment
from harmonica.plan import Plan


@dataclass(frozen=True)
class Row:
    case: str
    experiment: Experiment
    given: tuple[tuple[str, Any], ...]  # settings as the configuration spells them
    requires: str | None = None  # slug of the experiment whose plan this one starts from

    @property
    def slug(self) -> str:
        return self.experiment.slug

    @property
    def arguments(self) -> str:
        """This experiment for the command line `harmonica plan`."""
        e = self.experiment
        out = [
            e.method,
            "--model",
            e.model,
            "--sampler",
            e.sampler,
            "--steps",
            e.steps,
            "--cfg",
            e.cfg,
            "--seed",
            e.seed,
        ]
        for key, value in self.given:
            out += ["--set", f"{key}={value}"]
        return shlex.join(map(str, out))


def check(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise UserError, in one sentence, for the first thing in the configuration that its schema does not allow."""
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(config))
    if error is None:
        return
    where = "".join(f"{part}: " for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        raise unknown("configuration key", where + next(str(k) for k in error.instance if k not in known), known)
    raise UserError(f"configuration: {where}{error.message}")


def tables(shipped: dict[str, Any], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of every table, from the scale's file and what the user gave.

    What stands beside `tables` holds for all; what a user gives goes before what is shipped, key by key. Raises
    UserError for a table that is not shipped.
    """

    def common(config: dict) -> dict:
        return {k: v for k, v in config.items() if k != "tables"}

    own = given.get("tables") or {}
    for name in own:
        if name not in shipped["tables"]:
            raise unknown("table", name, shipped["tables"])
    out = {}
    for name, about in shipped["tables"].items():
        flat = {**common(shipped), **about, **common(given), **(own.get(name) or {})}
        if isinstance(flat["cases"], dict):
            flat["cases"] = {str(case): value for case, value in flat["cases"].items()}
        out[name] = flat
    return out


def rows(config: dict[str, Any]) -> list[Row]:
    """Rows in the order of the table. Raises UserError for a wrong name or value, or two equal rows.

    A method is a name, or a mapping of its name to its settings; a setting's value may be a mapping from case to value.
    `cases` among the settings says in which blocks the row stands, if not in all.
    """
    out: list[Row] = []
    for case, about in config["cases"].items():
        entries = [entry for entry in config["methods"] if case in _cases(config, entry)]
        case_rows = [_row(config, case, about, entry) for entry in entries]
        if not case_rows:
            raise UserError(f"no method is left for the case {case}")
        if case_rows[0].experiment.method != "full":
            raise UserError("the methods must begin with `full`: it is what the other rows are compared with")
        out += case_rows
    out = [replace(r, requires=_required(r, out)) for r in out]
    for case in config["cases"]:  # in several blocks an experiment may stand
        slugs = [r.slug for r in out if r.case == case]
        twice = {s for s in slugs if slugs.count(s) > 1}
        if twice:
            raise UserError(f"two rows are the same experiment: {', '.join(sorted(twice))}")
    return out


def _required(row: Row, table: list[Row]) -> str | None:
    """The slug of the row whose plan this one starts from."""
    e = row.experiment
    needed = getattr(methods.get_method(e.method), "REQUIRES", None)
    if needed is None:
        return None
    wanted = (needed, e.model, *e.source)
    for r in table:
        other = r.experiment
        if (other.method, other.model, other.sampler, other.steps) == wanted:
            return r.slug
    about = ", ".join(map(str, wanted[1:]))
    raise UserError(f"{e.method} starts from the plan of {needed} for {about}: add {needed} to the methods")


def _named(entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method of a line of the configuration, and what is given with it."""
    name, given = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
    return name, given or {}


def _cases(config: dict[str, Any], entry: str | dict[str, Any]) -> list[str]:
    """The cases that have a row of this method."""
    name, given = _named(entry)
    wanted = list(map(str, given.get("cases", config["cases"])))
    stray = set(wanted) - set(config["cases"])
    if stray:
        raise UserError(f"{name} is wanted for {', '.join(sorted(stray))}, which is not a case")
    return wanted


def _row(config: dict[str, Any], case: str, about: dict[str, Any], entry: str | dict[str, Any]) -> Row:
    name, given = _named(entry)
    settings = {}
    for key, value in given.items():
        if key == "cases":
            continue
        if isinstance(value, dict):
            stray = set(map(str, value)) - set(config["cases"])
            if stray:
                raise UserError(f"{name}: {key} is given for {', '.join(sorted(stray))}, which is not a case")
            value = {str(k): v for k, v in value.items()}.get(case)
        if value is not None:
            settings[key] = value
    e = Experiment.of(
        about["model"], about.get("sampler", config["sampler"]), about["steps"], about.get("cfg", config["cfg"]),
        name, settings, config["seed"],
    )  # fmt: skip
    return Row(case, e, tuple(settings.items()))


def uncached(table: list[Row], case: str) -> Row:
    """The row of the uncached model of a case."""
    return next(r for r in table if r.case == case and r.experiment.method == "full")


def check_plans(table: list[Row], plans: dict[str, Plan]) -> None:
    """Raise UserError unless every row has its plan, made for its model and sampler."""
    for r in table:
        if r.slug not in plans:
            raise UserError(f"no plan for {r.slug}")
        o = plans[r.slug].origin
        if (o.model, o.sampler, o.method) != (r.experiment.model, r.experiment.sampler, r.experiment.method):
            raise UserError(f"the plan for {r.slug} says it is {o.method} for {o.model}, {o.sampler}")
