import os
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

import yaml

from harmonica import (
    clip,
    downloads,
    extractors,
    learning,
    methods,
    precision,
    provenance,
    shards,
    suite,
    timing,
)
from harmonica.errors import UserError, unknown
from harmonica.models import get_model


def load_config() -> dict:
    """The configuration of every table, checked."""
    scale = str(config.get("scale"))
    path = ROOT / "workflow" / "config" / f"{scale}.yaml"
    if scale == "config" or not path.is_file():
        raise unknown("scale", scale, ["pocket", "paper"])
    schema = yaml.safe_load(
        (ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text()
    )
    tables = suite.tables(yaml.safe_load(path.read_text()), config)
    for about in tables.values():
        suite.check(about, schema)
        for case in about["cases"]:
            if not case.replace("@", "").replace("-", "").isalnum():
                raise UserError(
                    f"the case {case!r} must be made of letters, digits, `-` and `@`: it names files"
                )
    return tables


try:
    TABLES = load_config()
    PRECISION = {about.get("precision", "float32") for about in TABLES.values()}
    if len(PRECISION) > 1:
        raise UserError(
            "precision holds for all tables of a run: say it beside `tables`"
        )
    ROWS = {table: suite.rows(about) for table, about in TABLES.items()}
except UserError as e:
    raise WorkflowError(str(e)) from None

os.environ[timing.RUN] = str(time.time())
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH"; '
)  # the rules' `harmonica` is this environment's

# a part of the models' fingerprints; of one run, since plans are shared between its tables
(os.environ[precision.VARIABLE],) = PRECISION

SCALE = config["scale"]
OUT = f"results/{SCALE}"
BY_SLUG = {r.slug: r for rows in ROWS.values() for r in rows}


wildcard_constraints:
    figure="[A-Za-z0-9@-]+",
    experiment="[A-Za-z0-9._-]+",
    group="[A-Za-z0-9._@-]+",
    table="[a-z0-9]+",
    case="[A-Za-z0-9@-]+",
    shard=r"\d+",


def all_cores() -> int:
    """The cores of the run; a report needs none."""
    try:
        return workflow.cores
    except WorkflowError:
        return 1


def estimate_command() -> str:
    """What says the cost of the tables that are asked for, from nothing and on this machine."""
    asked = [Path(t).stem for t in workflow.dag_settings.targets]
    names = [t for t in TABLES if t in asked] or list(TABLES)
    images = f"--images {config['images']}" if "images" in config else ""
    return f"harmonica estimate {' '.join(names)} --scale {SCALE} {images} --cores {all_cores()}"


def is_of_costs(table: str) -> bool:
    """Whether a table is of what training costs, and of nothing that is drawn."""
    return TABLES[table].get("costs", False)


def drift_plans(case: str) -> list[str]:
    """Plans of a case of table 1 that take all its steps."""
    rows = [r for r in ROWS["table1"] if r.case == case]
    return [
        plan_file(r.slug)
        for r in rows
        if r.experiment.method not in ("full", "fewer_steps")
    ]


def extra_figures() -> dict[str, dict]:
    """The figures that are of no single table: what draws them, and from which files."""
    first = ROWS["table1"][0].experiment.model
    harmonica = [
        plan_file(r.slug) for r in ROWS["table1"] if r.experiment.method == "harmonica"
    ]
    out = {
        "sweep": {"what": "sweep", "files": ["results/sweep.csv"]},
        "memory": {
            "what": "memory",
            "files": ["results/table1.csv"],
            "more": f"--model {first}",
        },
    }
    if harmonica:
        out["lambda"] = {"what": "lambdas", "files": harmonica}
    for case in TABLES["table1"]["cases"]:
        if drift_plans(case):
            out[f"drift-{case}"] = {
                "what": "drift",
                "files": [f"{OUT}/drift/{case}.json"],
                "others": drift_plans(case),
                "more": "--plans {others}",
            }
    names = [n for n in downloads.FILES if "router" in n]
    if SCALE == "paper":
        released = [f"{OUT}/fetched/{n}.json" for n in names]
    else:
        names = [n for n in names if (provenance.weights_folder() / n).is_file()]
        released = []
    if names:
        files = [str(provenance.weights_folder() / n) for n in names]
        out["released-routers"] = {
            "what": f"routers {' '.join(files)}",
            "files": [],
            "others": released,
        }
    return out


def plan_file(slug: str) -> str:
    return f"{OUT}/plans/{slug}.safetensors"


def plans_of(table: str) -> list[str]:
    return [plan_file(slug) for slug in dict.fromkeys(r.slug for r in ROWS[table])]


def group_of(table: str, row: suite.Row) -> str:
    return "all" if TABLES[table]["sampling"]["grouping"] == "all" else row.slug


def rows_of_group(table: str, group: str) -> list[suite.Row]:
    """What one sampling job draws; an experiment that stands in several blocks once."""
    by_slug = {r.slug: r for r in ROWS[table] if group_of(table, r) == group}
    return list(by_slug.values())


def chunks_of(table: str) -> int:
    return -(-TABLES[table]["images"] // TABLES[table]["sampling"]["chunk"])


def shards_of(table: str) -> int:
    return min(TABLES[table]["sampling"]["shards"], chunks_of(table))


def manifests_of(table: str, rows: list[suite.Row]) -> list[str]:
    groups = dict.fromkeys(group_of(table, r) for r in rows)
    return [
        f"{OUT}/samples/{table}/{g}/shard{i}.json"
        for g in groups
        for i in range(shards_of(table))
    ]


def shard_range(table: str, shard: int) -> tuple[int, int]:
    """First image and number of images of a shard; shards meet at whole chunks, so that a longer run keeps them."""
    about, chunks, count = TABLES[table], chunks_of(table), shards_of(table)
    first, end = (
        min(about["images"], chunks * i // count * about["sampling"]["chunk"])
        for i in (shard, shard + 1)
    )
    return first, end - first


def plan_priority(slug: str) -> int:
    """Plans go before all else, and those that take long first, so that no core waits for the last one."""
    row = BY_SLUG[slug]
    return 10 + (row.experiment.steps if is_learned(row) else 0)


def plan_code(row: suite.Row) -> str:
    """A change in what makes this plan runs it again."""
    made_by = methods.get_method(row.experiment.method)
    common = (
        learning.SOURCES
        if is_learned(row)
        else ("harmonica/plan.py", "harmonica/shape.py", "harmonica/nearest.py")
    )
    return provenance.source_hash(made_by.__file__, *common)


def weights(*models: str) -> str:
    return "-".join(get_model(m).fingerprint for m in sorted(set(models)))


def fetched(*names: str) -> list[str]:
    """What has to be downloaded before a job: hub models and files, by name; shipped models need nothing."""
    return [
        f"{OUT}/fetched/{n}.json"
        for n in names
        if n in downloads.FILES or get_model(n).hub
    ]


def is_learned(row: suite.Row) -> bool:
    return issubclass(
        methods.get_method(row.experiment.method).Settings, learning.LearnedSettings
    )


def plan_needs(row: suite.Row) -> list[str]:
    """A plan's inputs: the plan it starts from, the weights it trains on, the files of others it reads."""
    made_by = methods.get_method(row.experiment.method)
    needs = [plan_file(row.requires)] if row.requires else []
    if is_learned(row):
        needs += parts_of([row])
    return needs + fetched(
        *getattr(made_by, "files", lambda experiment: [])(row.experiment)
    )


def rows_of_case(table: str, case: str) -> list[suite.Row]:
    return [r for r in ROWS[table] if r.case == case]


def case_model(table: str, case: str):
    return get_model(suite.uncached(ROWS[table], case).experiment.model)


def reference_of(table: str, case: str) -> list[str]:
    """The reference of a case's metrics, where the extractor does not bring its own."""
    name = case_model(table, case).reference
    return [f"{OUT}/reference/{name}"] if name else []


def captions_of(*models: str) -> list[str]:
    """The embedded captions of the models that draw any."""
    return [f"{OUT}/captions/{m}.json" for m in models if get_model(m).captions]


def parts_of(rows: list[suite.Row]) -> list[str]:
    """What sampling needs besides plans: weights and captions."""
    models = list(dict.fromkeys(r.experiment.model for r in rows))
    return fetched(*models) + captions_of(*models)


def clip_options(table: str, case: str) -> str:
    clip = TABLES[table].get("clip")
    if not clip:
        return ""
    tag = f"--clip-pretrained {clip['pretrained']}" if clip["pretrained"] else ""
    return f"--clip {clip['model']} {tag} --captions {case_model(table, case).name}"


FIGURES = extra_figures()
