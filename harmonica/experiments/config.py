"""From a configuration to the rows of a table: every case (model × sampler × steps) with every method."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from harmonica.experiments import identity
from harmonica.experiments.compressed import CompressedModel
from harmonica.experiments.experiment import Experiment
from harmonica.methods import Method
from harmonica.models import Model
from harmonica.plan import Plan, Protocol
from harmonica.samplers import make_sampler
from harmonica.utils import WORKFLOW, UserError, digest, unknown

MOST_VALUES = 100_000
MERGED = ("precision", "sampling", "training", "latency", "converged")  # sections of the configuration


@dataclass(frozen=True)
class Row:
    case: str
    experiment: Experiment
    given: tuple[tuple[str, Any], ...]  # settings as written in the configuration
    requires: str | None = None  # slug of the experiment whose plan this one starts from

    @cached_property
    def slug(self) -> str:
        """Names the files of this row; plans of one experiment that start from different plans differ."""
        return self.experiment.slug + (f"-of-{digest(self.requires)[:8]}" if self.requires else "")

    @property
    def arguments(self) -> str:
        """This experiment for the command line `harmonica plan`."""
        e = self.experiment
        return identity.arguments(e.name, e.protocol, e.seed, self.given)


def of_scale(scale: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of every table at a scale, checked. Raises UserError for the first thing that is wrong."""
    known = sorted(p.stem for p in (WORKFLOW / "config").glob("*.yaml") if p.stem != "config")
    if scale not in known:
        raise unknown("scale", scale, known)
    found = tables(from_yaml(WORKFLOW / "config" / f"{scale}.yaml"), given | {"scale": scale})
    schema = from_yaml(WORKFLOW / "schemas" / "config.schema.yaml")
    for about in found.values():
        check(about, schema)
        for case in about["cases"]:
            if not case.replace("@", "").replace("-", "").isalnum():
                raise UserError(f"the case {case!r} must consist of letters, digits, `-` and `@`: it names files")
    return found


def check(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise UserError, in one sentence, for the first thing in the configuration that its schema does not allow, is no
    finite number, or is a range without values."""
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(config))
    if error is None:
        _check_finite(config, "")
        latency = config["latency"]
        if latency["rounds"] > latency["max_rounds"]:
            raise UserError(
                f"configuration: latency: rounds must be in [1, max_rounds], with max_rounds = "
                f"{latency['max_rounds']}, got {latency['rounds']}"
            )
        return
    where = "".join(f"{part}: " for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        raise unknown("configuration key", where + next(str(k) for k in error.instance if k not in known), known)
    raise UserError(f"configuration: {where}{error.message}")


def _check_finite(value: Any, where: str) -> None:
    """Raise UserError for a NaN or infinite number, which no bound of a schema refuses."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"configuration: {where}{value} is not a finite number")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        _check_finite(part, f"{where}{key}: ")


def from_text(text: str) -> dict[str, Any]:
    """A configuration from JSON, or from a file with it. Raises UserError for anything else."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"the configuration {text[:60]} is not JSON ({type(e).__name__}: {e})") from None
    if not isinstance(found, dict):
        raise UserError(f"the configuration {text[:60]} is not a JSON object")
    return found


def from_yaml(path: Path) -> dict[str, Any]:
    """A configuration from a YAML file. Raises UserError if there is none."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise UserError(
            f"{path} is not a configuration in YAML ({type(e).__name__}: {' '.join(str(e).split())})"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a configuration: it has no keys")
    return found


def tables(shipped: dict[str, Any], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of every table, from the scale's file and what the user gave.

    Keys beside `tables` apply to all tables; the user's values override the shipped ones, key by key, also within
    MERGED. A table that is not shipped is `like` another one, whose keys it overrides in the same way; its `like` is
    then the name of the shipped one. Raises UserError for a table that is neither, or likenesses that lead nowhere.
    """

    def common(config: dict) -> dict:
        return {k: v for k, v in config.items() if k != "tables"}

    _check_size(given)
    own = given.get("tables") or {}
    if not isinstance(own, dict) or not all(isinstance(about or {}, dict) for about in own.values()):
        raise UserError("configuration: `tables` must have the names of tables, and below each its keys")
    if "like" in given:
        raise UserError("configuration: `like` says what one table is like: put it below the table's name")
    own = {str(name): about or {} for name, about in own.items()}
    out = {}
    for name in dict.fromkeys([*shipped["tables"], *own]):
        first, *others = _likenesses(name, shipped["tables"], own)
        flat: dict[str, Any] = {}
        layers = [shipped["tables"][first], common(given), *(own.get(n, {}) for n in (first, *others))]
        for layer in (common(shipped), *layers):
            flat = _over(flat, layer)
        out[name] = flat | ({"like": first} if others else {})
    return out


def _likenesses(name: str, shipped: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """From a shipped table to the table of that name, each like the one before. Raises UserError if there is no such
    way, or the table's name cannot be one of files."""
    chain = [name]
    while chain[0] not in shipped:
        first = chain[0]
        if first not in own:
            raise unknown("table", first, [*shipped, *own])
        like = own[first].get("like")
        if like is None:
            raise UserError(f"{unknown('table', first, shipped)}; a table of your own says which one it is `like`")
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]*", first):
            raise UserError(f"the table {first!r} must consist of letters, digits and `-`: it names files")
        if str(like) in chain:
            raise UserError(f"the tables {', '.join(sorted(chain))} are like each other, and none like a shipped one")
        chain.insert(0, str(like))
    if "like" in own.get(chain[0], {}):
        raise UserError(f"{chain[0]} is a shipped table: only a table of your own can be like another")
    return chain


def _over(under: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """The keys of a table with those of a layer over them. The cases of the layer are all there are; one that was there
    before keeps what the layer does not say of it. Methods that the layer does not give are left to these cases."""
    out = dict(under)
    for key, value in layer.items():
        value, before = _typed(value), out.get(key)
        if key == "cases" and isinstance(value, dict):
            value = _cases_over(before if isinstance(before, dict) else {}, value)
            if "methods" not in layer and isinstance(out.get("methods"), list):
                out["methods"] = [x for entry in out["methods"] if (x := _left_to(entry, value)) is not None]
        merges = key in MERGED and isinstance(value, dict) and isinstance(before, dict)
        out[key] = before | value if merges else value
    return out


def _cases_over(before: dict[str, Any], given: dict[Any, Any]) -> dict[str, Any]:
    """Given cases, each over the one of its name."""
    out = {}
    for case, about in given.items():
        known, own = before.get(str(case)), about or {}
        out[str(case)] = known | own if isinstance(known, dict) and isinstance(own, dict) else about
    return out


def _left_to(entry: Any, cases: dict[str, Any]) -> Any:
    """An entry of a table's methods without what it says of other cases; None if it is for others only."""
    if not isinstance(entry, dict) or not entry or not all(isinstance(v, dict) for v in entry.values()):
        return entry
    name, given = _named(entry)
    settings = {}
    for key, value in given.items():
        if key == "cases" and isinstance(value, (list, dict)):
            value = [case for case in map(str, value) if case in cases]
            if not value:
                return None
        elif key != "compression" and isinstance(value, dict):
            value = {str(case): v for case, v in value.items() if str(case) in cases}
            if not value:
                continue
        settings[key] = value
    return {name: settings}


def _check_size(given: dict[str, Any]) -> None:
    """Raise UserError for more values than people write: YAML's aliases may stand for any number, or themselves."""
    waiting: list[Any] = [given]
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        x = waiting.pop()
        if isinstance(x, (dict, list)):
            waiting += x.values() if isinstance(x, dict) else x
    raise UserError(f"configuration: it has more than {MOST_VALUES} values")


def _typed(value: Any) -> Any:
    """A value as Snakemake's command line leaves it: true, false and the numbers of a list are strings there."""
    if isinstance(value, list):
        return [int(x) if isinstance(x, str) and x.isdigit() else x for x in value]
    return {"true": True, "false": False}.get(str(value), value)


def rows(config: dict[str, Any]) -> list[Row]:
    """Rows in the order of the table. Raises UserError for a wrong name or value, or two equal rows.

    A method is a name, or a mapping of its name to its settings; a setting's value may be a mapping from case to value.
    `cases` among the settings lists the blocks with this row, if not all have it. `compression` is what it runs on: a
    compressor's name, or a mapping of its name to its settings, for all cases alike.
    """
    out: list[Row] = []
    for case, about in config["cases"].items():
        case_rows = [
            row
            for entry in config["methods"]
            if case in _cases(config, entry)
            for row in _rows(config, case, about, entry)
        ]
        if not case_rows:
            raise UserError(f"no method is left for the case {case}")
        if not case_rows[0].experiment.uncached:
            raise UserError("the methods must begin with `full`: the other rows are compared with it")
        out += case_rows
    out = [replace(r, requires=_required(r, out)) for r in out]
    for case in config["cases"]:  # an experiment may be in several blocks
        slugs = [r.slug for r in out if r.case == case]
        twice = {s for s in slugs if slugs.count(s) > 1}
        if twice:
            raise UserError(f"two rows are the same experiment: {', '.join(sorted(twice))}")
    return out


def _required(row: Row, table: list[Row]) -> str | None:
    """The slug of the row whose plan this one starts from, or goes on from if there is one."""
    e = row.experiment
    needed, continued = e.method.requires, e.method.continues
    if not needed and not continued:
        return None
    source = (needed, e.protocol.model, *e.source) if needed else (continued, *_where(e))
    found = [r for r in table if (r.experiment.name, *_where(r.experiment)) == source and r.experiment.seed == e.seed]
    found = [r for r in found if r.experiment.compression == e.compression]
    if not needed:
        found = [r for r in found if _set_alike(r.experiment.method, e.method)]
    for r in [r for r in found if r.case == row.case] or found:
        return r.slug
    if not needed:
        return None
    about = ", ".join(map(str, source[1:]))
    raise UserError(f"{e.name} starts from the plan of {needed} for {about}: add {needed} to the methods")


def _set_alike(a: Method, b: Method) -> bool:
    """Whether two methods have equal values of all settings that the first has."""
    return all(getattr(a, f.name) == getattr(b, f.name, None) for f in fields(a))


def _named(entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method of an entry of the configuration, and its settings."""
    name, given = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
    return name, given or {}


def _cases(config: dict[str, Any], entry: str | dict[str, Any]) -> list[str]:
    """The cases that have a row of this method."""
    name, given = _named(entry)
    if not isinstance(given, dict) or not isinstance(given.get("cases", []), (list, dict)):
        raise UserError(f"configuration: {name} takes a mapping of its settings, and `cases` in it a list")
    cases = list(map(str, given.get("cases", config["cases"])))
    stray = set(cases) - set(config["cases"])
    if stray:
        raise UserError(f"{name} is requested for {', '.join(sorted(stray))}, which is not a case")
    return cases


def _where(e: Experiment) -> tuple[str, str, int]:
    return e.protocol.model, e.protocol.sampler, e.protocol.steps


def _rows(config: dict[str, Any], case: str, about: dict[str, Any], entry: str | dict[str, Any]) -> list[Row]:
    """An entry's row of a case, once per training seed if it depends on one."""
    name, given = _named(entry)
    settings = {}
    for key, value in given.items():
        if key in ("cases", "compression"):
            continue
        if isinstance(value, dict):
            stray = set(map(str, value)) - set(config["cases"])
            if stray:
                raise UserError(f"{name}: {key} is given for {', '.join(sorted(stray))}, which is not a case")
            value = {str(k): v for k, v in value.items()}.get(case)
        if value is not None:
            settings[key] = value
    sampler, cfg = _sampler_and_cfg(config, about)
    first = Experiment.of(about["model"], sampler, about["steps"], cfg, name, settings)
    on = _compression(first.protocol, given)
    seeds = config["seeds"] if first.method.seeded or (on and on.compressor.seeded) else [0]
    return [Row(case, _seeded(first, on, seed), tuple(settings.items())) for seed in seeds]


def _compression(protocol: Protocol, given: dict[str, Any]) -> CompressedModel | None:
    """What a row runs on, if not on the model itself."""
    if not given.get("compression"):
        return None
    return CompressedModel.of(protocol, *_named(given["compression"]))


def _seeded(e: Experiment, on: CompressedModel | None, seed: int) -> Experiment:
    """An experiment of a seed; each of its parts that does not depend on one has seed 0, and is shared by all."""
    if on is not None:
        on = replace(on, seed=seed if on.compressor.seeded else 0)
        e = replace(e, compression=on)
    return replace(e, seed=seed)


def images_of(config: dict[str, Any], group: Iterable[Row]) -> int:
    """Images of each of the rows that one job generates: the most that a case with one of them has, its own number or
    the table's."""
    cases = {row.case for row in group}
    return max(config["cases"][case].get("images", config["images"]) for case in cases)


def _sampler_and_cfg(config: dict[str, Any], about: dict[str, Any]) -> tuple[str, float]:
    """A case's own, or the table's."""
    return about.get("sampler", config["sampler"]), about.get("cfg", config["cfg"])


def by_method(table: list[Row]) -> list[list[Row]]:
    """The rows of a table as it shows them: those that differ only in the training seed are one."""
    return [list(group) for _, group in groupby(table, _kind)]


def _kind(row: Row) -> tuple:
    """What rows that differ only in the training seed have in common."""
    on = row.experiment.compression
    return row.case, row.experiment.name, row.given, on and on.label


def converged(config: dict[str, Any]) -> list[Row]:
    """Per case, the experiment whose images are the converged solution of the case's seeds: many steps of a solver of
    high order. None for a case whose sampler is stochastic, or if the configuration requests none."""
    about = config.get("converged")
    out: list[Row] = []
    if not about:
        return out
    for case, own in config["cases"].items():
        sampler, cfg = _sampler_and_cfg(config, own)
        if not make_sampler(sampler, own["steps"]).stochastic:
            out.append(Row(case, Experiment.of(own["model"], about["sampler"], about["steps"], cfg, "full", {}), ()))
    return out


def precision(config: dict[str, Any], job: str, model: Model) -> str:
    """The precision of the branches in a job, "training", "sampling" or "latency", for a model: one for all, or by kind
    of backbone. Raises UserError if its kind is left out."""
    given = config["precision"][job]
    if isinstance(given, str):
        return given
    if model.kind not in given:
        raise UserError(f"configuration: precision: {job} is given for {', '.join(given)}, not for {model.kind}")
    return given[model.kind]


def uncached(table: list[Row], case: str) -> Row:
    """The row of the uncached model of a case."""
    return next(r for r in table if r.case == case and r.experiment.uncached)


def check_plans(table: list[Row], plans: dict[str, Plan]) -> None:
    """Raise UserError unless every row has its plan, made by its method for its model and sampler."""
    for r in table:
        if r.slug not in plans:
            raise UserError(f"no plan for {r.slug}")
        own, made, by = r.experiment.protocol, plans[r.slug].protocol, plans[r.slug].origin.method
        sampler = r.experiment.method.plan_sampler(own)
        if (made.model, made.sampler, by) != (own.model, sampler, r.experiment.name):
            raise UserError(f"the plan for {r.slug} says it is {by} for {made.model}, {made.sampler}")
        on = plans[r.slug].origin.notes.get("compression", {}).get("method")
        if on != (r.experiment.compression and r.experiment.compression.name):
            raise UserError(f"the plan for {r.slug} says that it was made for {on or 'the model itself'}")
