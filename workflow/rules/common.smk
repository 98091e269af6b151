import json
import os
import re
import shlex
import sys
import time
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = HERE.parent
if (
    str(ROOT) not in sys.path
):  # the code of a checkout goes before that of an installed package
    sys.path.insert(0, str(ROOT))

from harmonica.checks import estimate, published
from harmonica.evaluation import generate
from harmonica.evaluation.features import clip, lpips, networks
from harmonica.compression.registry import source_file as compressor_file
from harmonica.experiments import Row, config as configuration, sharding
from harmonica.methods import Reads
from harmonica.methods.registry import source_file
from harmonica.models import downloads, get_model
from harmonica.training import LearnedSettings
from harmonica.training.settings import SOURCES as TRAINING
from harmonica.utils import UserError, files, job_log, run_lock

try:
    SCALE = str(config.setdefault("scale", "pocket"))
    TABLES = configuration.of_scale(SCALE, config)
    ROWS = {table: configuration.rows(about) for table, about in TABLES.items()}
    CONVERGED = {
        table: [] if about.get("costs") else configuration.converged(about)
        for table, about in TABLES.items()
    }
    for rows in ROWS.values():
        for on in (r.experiment.compression for r in rows):
            if on and on.compressor.gpu and SCALE != "paper":
                raise UserError(
                    f"{on.name} runs on a GPU only, and jobs of the {SCALE} scale have none"
                )
    for about in TABLES.values():
        published.get_gpu(about.get("device", "h100"))
    for job in ("training", "sampling", "latency"):
        if len({str(about["precision"][job]) for about in TABLES.values()}) > 1:
            raise UserError(
                "precision applies to all tables of a run, which share plans and images: set it beside `tables`"
            )
        for table, rows in ROWS.items():
            for row in rows:
                configuration.precision(TABLES[table], job, row.experiment.model)
    for table, rows in ROWS.items():
        for model in {r.experiment.protocol.model for r in rows}:
            if not TABLES[table].get("costs"):
                networks.check_model(get_model(model))
except UserError as e:
    raise WorkflowError(str(e)) from None

run_lock.begin(Path(".snakemake"), may_remove=workflow.is_main_process)
os.environ.setdefault(job_log.RUN, str(time.time()))  # jobs on other machines keep it
shell.prefix(
    f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
)  # the rules' `harmonica` is this environment's

# of a checkout, which it installs; an installed workflow runs in the environment that it is in
ENVIRONMENT = "../../environment.yml" if (ROOT / "environment.yml").is_file() else ""
OUT = f"results/{SCALE}"
SAMPLES = os.environ.get("HARMONICA_SAMPLES", f"{OUT}/samples/images")
GPU = int(SCALE == "paper")
RECORDS = ("evaluation/records.py", "utils/records.py")  # the form of results
BY_SLUG = {r.slug: r for t in TABLES for r in [*CONVERGED[t], *ROWS[t]]}
REFERENCES = {
    m.name: m
    for m in (r.experiment.model for r in BY_SLUG.values())
    if Path(m.reference).is_absolute()
}  # of users' models
COMPRESSED = {
    on.slug: on
    for r in BY_SLUG.values()
    if (on := r.experiment.compression) is not None
}


def is_learned(row: Row) -> bool:
    return isinstance(row.experiment.method, LearnedSettings)


def one_of(names: list[str]) -> str:
    """A wildcard constraint."""
    return "|".join(map(re.escape, names)) or "none"


def reads_nothing(row: Row) -> bool:
    """Whether the plan is made from settings alone, as those of most heuristics."""
    if is_learned(row) or row.requires or row.experiment.compression:
        return False
    try:
        return row.experiment.reads == Reads()
    except UserError:
        return False  # the plan's own job says why, if it is needed


def runs_model(row: Row) -> bool:
    """Whether making the plan runs the model."""
    try:
        return row.experiment.reads.weights
    except UserError:
        return False  # as above


HEURISTIC = {slug: r for slug, r in BY_SLUG.items() if reads_nothing(r)}
SEARCHED = {
    slug
    for slug, r in BY_SLUG.items()
    if slug not in HEURISTIC and not is_learned(r) and runs_model(r)
}
CALIBRATION = 3000  # evaluations of single images that make a search shorter than the start of its job


def together(table: str) -> bool:
    """Whether a table's rows share jobs: where the start of a job takes longer than what it does."""
    return TABLES[table]["sampling"]["grouping"] == "all"


def is_calibration(row: Row) -> bool:
    """Whether the plan is made from a few runs of the model, and from nothing that other jobs make."""
    e = row.experiment
    if row.slug not in SEARCHED or row.requires or e.compression:
        return False
    return e.method.work(e.protocol, SCALE).evaluations <= CALIBRATION


def calibrations() -> dict[str, list[str]]:
    """Plans that one job makes, by its rule's name: the table and case where they first stand."""
    out, seen = {}, set()
    for table, rows in ROWS.items():
        for row in rows if together(table) else []:
            if row.slug not in seen and is_calibration(row):
                seen.add(row.slug)
                case = re.sub("[^a-zA-Z0-9]", "_", f"{table}_{row.case}")
                out.setdefault(f"calibrate_{case}", []).append(row.slug)
    return out


CALIBRATED = calibrations()
# by slug, the plans that share a job with others
SHARED = HEURISTIC | {s: BY_SLUG[s] for slugs in CALIBRATED.values() for s in slugs}
LEARNED = one_of([slug for slug, r in BY_SLUG.items() if is_learned(r)])
COSTS = one_of([t for t in TABLES if TABLES[t].get("costs")])
OF_IMAGES = one_of([t for t in TABLES if not TABLES[t].get("costs")])


wildcard_constraints:
    figure="[A-Za-z0-9@-]+",
    experiment="[A-Za-z0-9._-]+",
    compressed="[A-Za-z0-9._-]+",
    group="[A-Za-z0-9._@-]+",
    table="[A-Za-z0-9-]+",
    case="[A-Za-z0-9@-]+",
    shard=r"\d+",
    part=r"\d+",
    side=r"\d+",


def all_cores() -> int:
    """The cores of the run; a report needs none."""
    try:
        return workflow.cores
    except WorkflowError:
        return 1


def estimate_command() -> str:
    """The command that prints the requested tables' cost, from scratch."""
    targets = [Path(t).stem for t in workflow.dag_settings.targets]
    names = [t for t in TABLES if t in targets] or list(TABLES)
    given = shlex.quote(json.dumps({k: v for k, v in config.items() if k != "scale"}))
    return f"harmonica estimate {' '.join(names)} --scale {SCALE} --config {given}"


def compute_options(job: str, table: str, models) -> str:
    """Precision and memory of a job, for its command line. Raises UserError if its models differ in precision."""
    found = {configuration.precision(TABLES[table], job, get_model(m)) for m in models}
    if len(found) > 1:
        raise UserError(
            f"the models of {table} have different precisions in one {job} job"
        )
    memory = TABLES[table].get("gpu_memory")
    return f"--precision {found.pop()}" + (f" --memory {memory}" if memory else "")


def latency_options(table: str) -> str:
    """Precision and memory of the timings, where models may differ in precision."""
    about, models = TABLES[table], models_of(ROWS[table])
    found = {m: configuration.precision(about, "latency", get_model(m)) for m in models}
    if len(set(found.values())) == 1:
        return compute_options("latency", table, models)
    memory = [f"--memory {about['gpu_memory']}"] if "gpu_memory" in about else []
    return " ".join([*(f"--precision-of {m}={p}" for m, p in found.items()), *memory])


def rounds_options(latency: dict) -> str:
    """How often a table's rows are timed, and how."""
    found = ["--rounds {rounds} --max-rounds {max_rounds} --tolerance {tolerance}"]
    found += ["--compiled"] if latency.get("compiled") else []
    found += [f"--base {p}" for p in latency.get("bases", [])]
    return " ".join(found).format(**latency)


def models_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(r.experiment.protocol.model for r in rows))


def training_options(row: Row) -> str:
    """Precision and memory of a training; the tables of a run agree."""
    table = next(iter(TABLES))
    return (
        compute_options("training", table, models_of([row])) if runs_model(row) else ""
    )


def compression_options(on) -> str:
    """Precision of a compression: the training's; the tables of a run agree."""
    table = next(iter(TABLES))
    found = configuration.precision(TABLES[table], "training", on.model)
    return f"--precision {found}"


def calibration_arguments(slugs: list[str]) -> str:
    """What one job makes, for `harmonica plans`."""
    made = {
        plan_file(s): f"{BY_SLUG[s].arguments} {training_options(BY_SLUG[s])}"
        for s in slugs
    }
    return json.dumps(made)


def drift_slugs(case: str) -> list[str]:
    """Rows of a case of table 1 that have a cache, of the first training seed."""
    return [
        rows[0].slug
        for rows in configuration.by_method(rows_of_case("table1", case))
        if not rows[0].experiment.method.plain
    ]


def extra_figures() -> dict[str, dict]:
    """The figures of no single table: their command, and its files."""
    first = ROWS["table1"][0].experiment.protocol.model
    harmonica = [
        plan_file(r.slug)
        for r in ROWS["table1"]
        if r.experiment.name == "harmonica"
        and r.experiment.seed == TABLES["table1"]["seeds"][0]
    ]
    out = {
        "sweep": {"what": "sweep", "files": [f"{OUT}/sweep.csv"]},
        "memory": {
            "what": "memory",
            "files": [f"{OUT}/table1.csv"],
            "more": f"--model {first}",
        },
    }
    if harmonica:
        out["lambda"] = {"what": "lambdas", "files": harmonica}
    for case in TABLES["table1"]["cases"]:
        if drift_slugs(case):
            out[f"drift-{case}"] = {
                "what": "drift",
                "files": [f"{OUT}/drift/{case}.json"],
                "others": plans(drift_slugs(case)),
                "more": "--plans {others}",
            }
    names = [n for n in downloads.FILES if "router" in n]
    if SCALE == "paper":
        released = [f"{OUT}/fetched/{n}.json" for n in names]
    else:
        names = [n for n in names if (files.weights_folder() / n).is_file()]
        released = []
    if names:
        routers = [str(files.weights_folder() / n) for n in names]
        out["released-routers"] = {
            "what": shlex.join(["routers", *routers]),
            "files": [],
            "others": released,
        }
    return out


def plan_file(slug: str) -> str:
    """One of many that a job makes is in a folder that is named after the code that makes it: other code, other file.
    Snakemake would not look whether a job that reads some of one job's many files is out of date while that job is.
    """
    if slug not in SHARED:
        return f"{OUT}/plans/{slug}.safetensors"
    row = SHARED[slug]
    made_by = files.digest([plan_code(row), plan_data(row)])
    return f"{OUT}/plans/{row.experiment.name}-{made_by}/{slug}.safetensors"


def slugs_of(table: str) -> list[str]:
    return list(dict.fromkeys(r.slug for r in ROWS[table]))


def plans(slugs: list[str]) -> list[str]:
    """Plan files as inputs. The other plans of the job that makes one must not renew what depends on that one."""
    return [
        ancient(plan_file(slug)) if slug in SHARED else plan_file(slug)
        for slug in slugs
    ]


def plans_of(table: str) -> list[str]:
    return plans(slugs_of(table))


def routers_of(table: str) -> list[str]:
    learned = [slug for slug in slugs_of(table) if is_learned(BY_SLUG[slug])]
    return [f"{OUT}/plans/{slug}.router.safetensors" for slug in learned]


def compression_file(slug: str) -> str:
    return f"{OUT}/compressions/{slug}.safetensors"


def compressions_of(rows: list[Row]) -> list[str]:
    """The files of the compressions that rows run on."""
    found = [r.experiment.compression for r in rows]
    return list(dict.fromkeys(compression_file(on.slug) for on in found if on))


def compression_option(rows: list[Row]) -> str:
    """The compression of all rows, for a command line."""
    return " ".join(f"--compression {path}" for path in compressions_of(rows))


def runs_of(rows: list[Row]) -> str:
    """The plans of rows, those on compressions after the compression, for a command line."""
    plain = [r for r in rows if r.experiment.compression is None]
    out = list(dict.fromkeys(plan_file(r.slug) for r in plain))
    for path in compressions_of(rows):
        own = [r for r in rows if compressions_of([r]) == [path]]
        plans = dict.fromkeys(plan_file(r.slug) for r in own)
        out.append(f"--compression {path} {' '.join(plans)}")
    return " ".join(out)


SOLUTIONS = "converged"  # the group of the converged solutions


def group_of(table: str, row: Row) -> str:
    if row in CONVERGED[table]:
        return SOLUTIONS
    if not together(table):
        return row.slug
    on = row.experiment.compression  # a job has one model
    return f"on-{on.slug}" if on else "all"


@cache
def rows_of_group(table: str, group: str) -> list[Row]:
    """Rows that one sampling job generates; an experiment in several blocks once."""
    rows = CONVERGED[table] if group == SOLUTIONS else ROWS[table]
    by_slug = {r.slug: r for r in rows if group_of(table, r) == group}
    return list(by_slug.values())


@cache
def sharding_of(table: str, group: str) -> tuple[int, int, int]:
    """Images, chunk and shards of a group, as harmonica.experiments.sharding takes them."""
    about, every = TABLES[table], ROWS[table]
    slugs = {r.slug for r in rows_of_group(table, group)}
    alike = [r for r in [*every, *CONVERGED[table]] if r.slug in slugs]
    images = configuration.images_of(about, alike)
    if group == SOLUTIONS:
        images = min(images, about["converged"]["images"])
        every = CONVERGED[table]
    shards = estimate.shard_count(about, rows_of_group(table, group), every, images)
    return images, about["sampling"]["chunk"], shards


def manifests_of(table: str, rows: list[Row]) -> list[str]:
    groups = dict.fromkeys(group_of(table, r) for r in rows)
    return [
        f"{OUT}/samples/{table}/{g}/shard{i}.json"
        for g in groups
        for i in range(sharding.shard_count(*sharding_of(table, g)))
    ]


def shard_range(table: str, group: str, shard: int) -> tuple[int, int]:
    return sharding.shard_range(*sharding_of(table, group), shard)


def plan_code(row: Row) -> str:
    """Changes with the code that makes this plan."""
    common = TRAINING if runs_model(row) else ("plan", "samplers")
    return files.source_hash(source_file(row.experiment.name), "methods", *common)


def fetched(*names: str) -> list[str]:
    """What must be downloaded before a job: hub models and files, by name; shipped models need nothing."""
    return [
        f"{OUT}/fetched/{n}.json"
        for n in names
        if n in downloads.FILES or get_model(n).hub
    ]


def moments_of(row: Row) -> list[str]:
    """The posterior moments of ImageNet, for a method that trains on images."""
    model = row.experiment.model
    parts = moments_parts(model.name) if model.hub else 0
    return [f"{OUT}/moments/{model.name}/{k}.json" for k in range(parts)]


def moments_parts(model: str) -> int:
    """Jobs that share the encoding of ImageNet."""
    about = TABLES[table_of(model)]
    return estimate.moments_parts(get_model(model), about)


def table_of(name: str) -> str:
    """The table of that name, or the first with a row, a model or a compression of it."""
    if name in TABLES:
        return name
    return next(
        table
        for table, rows in ROWS.items()
        if any(
            name in (r.slug, r.experiment.protocol.model)
            or (r.experiment.compression and r.experiment.compression.slug == name)
            for r in rows
        )
    )


def plan_needs(row: Row) -> list[str]:
    """A plan's inputs: the plan it starts from, and what its method reads."""
    reads = row.experiment.reads
    needs = plans([row.requires]) if row.requires else []
    needs += compressions_of([row])
    needs += moments_of(row) if reads.images else []
    needs += checked(row) if reads.weights else []
    return needs + (parts_of([row]) if reads.weights else []) + fetched(*reads.files)


def plan_data(row: Row) -> str:
    """Changes with the local data that the plan's method reads."""
    reads, model = row.experiment.reads, row.experiment.model
    about = [model.config, model.fingerprint if reads.weights else ""]
    if reads.images and model.training_images and model.training_images.is_file():
        about.append(files.content_hash(model.training_images))
    return files.digest(about)


def models_data(rows: list[Row]) -> str:
    """Changes with the weights of the models."""
    return files.digest([get_model(m).fingerprint for m in models_of(rows)])


def compressor_needs(on) -> list[str]:
    """What a compression is made from: weights, captions, maybe training images, once the model is known to be right."""
    rows = [r for r in BY_SLUG.values() if r.experiment.compression == on]
    images = on.compressor.images and on.model.hub
    return (
        checked(rows[0]) + parts_of(rows[:1]) + (moments_of(rows[0]) if images else [])
    )


def compressor_data(on) -> str:
    """Changes with the local data that a compressor reads."""
    about = [on.model.config, on.model.fingerprint]
    images = on.model.training_images if on.compressor.images else None
    if images and images.is_file():
        about.append(files.content_hash(images))
    return files.digest(about)


def rows_of_case(table: str, case: str) -> list[Row]:
    return [r for r in ROWS[table] if r.case == case]


def uncached_row(table: str, case: str) -> Row:
    return configuration.uncached(ROWS[table], case)


def converged_row(table: str, case: str) -> list[Row]:
    """The converged solution of a case, if it has one."""
    return [r for r in CONVERGED[table] if r.case == case]


def target_options(table: str, case: str) -> str:
    """What a case's rows are compared with, besides the uncached row."""
    out = [f"--converged {r.slug}" for r in converged_row(table, case)]
    options = [
        f"--{k.replace('_', '-')}"
        for k in ("lpips", "fid_infinity")
        if TABLES[table].get(k)
    ]
    return " ".join(out + options)


def case_model(table: str, case: str):
    return uncached_row(table, case).experiment.model


def reference_of(table: str, case: str) -> list[str]:
    """The reference of a case's metrics, if the extractor has none of its own."""
    model = case_model(table, case)
    name = model.name if Path(model.reference).is_absolute() else model.reference
    return [f"{OUT}/reference/{model.resolution}/{name}"] if model.reference else []


def reference_file(name: str) -> str:
    """The file or folder of pictures that a reference is made from: in the weights folder, or a user's own."""
    return (
        REFERENCES[name].reference
        if name in REFERENCES
        else str(files.weights_folder() / name)
    )


def reference_options(name: str) -> str:
    """The network of a user's own reference, and the name of its pictures."""
    model = REFERENCES.get(name)
    about = ["--extractor", model.extractor, "--data", model.data_set] if model else []
    return shlex.join(about)


def reference_needs(name: str) -> list[str]:
    """What a reference is made with, if it is not shipped."""
    model = REFERENCES.get(name)
    network = model.extractor if model else "inception-2015-12-05"
    return [n for n in (name,) if n in downloads.FILES] + [*networks.downloads(network)]


def captions_of(*models: str) -> list[str]:
    """The embedded captions of the models that have any."""
    return [f"{OUT}/captions/{m}.json" for m in models if get_model(m).captions]


def parts_of(rows: list[Row]) -> list[str]:
    """What sampling needs besides plans: weights and captions."""
    models = models_of(rows)
    return fetched(*models) + captions_of(*models)


def checked(row: Row) -> list[str]:
    """What shows that this row's model, weights and metrics are right, before time goes into it: at the paper scale the
    uncached row of its case, measured and compared with the published one."""
    if SCALE != "paper" or row.experiment.uncached:
        return []
    return [
        f"{OUT}/checked/{table}/{other.case}.json"
        for table in TABLES
        if not TABLES[table].get("costs")
        for other in ROWS[table]
        if other.experiment.uncached
        and other.experiment.protocol == row.experiment.protocol
    ][:1]


def metrics_of(table: str, case: str) -> list[str]:
    groups = dict.fromkeys(group_of(table, r) for r in rows_of_case(table, case))
    return [f"{OUT}/metrics/{table}/{case}/{g}.json" for g in groups]


def measured_rows(table: str, case: str, group: str) -> list[Row]:
    """The rows of a case whose metrics are one job."""
    return [r for r in rows_of_case(table, case) if group_of(table, r) == group]


def features_while_sampling(table: str) -> bool:
    """Whether a sampling job computes features, too, so that images can be dropped."""
    return "keep" in TABLES[table]["sampling"]


def networks_while_sampling(table: str, rows: list[Row]) -> list[str]:
    """The feature networks that a sampling job downloads; shipped ones need nothing."""
    if not features_while_sampling(table):
        return []
    needed = dict.fromkeys(r.experiment.model.extractor for r in rows)
    return fetched(*dict.fromkeys(f for n in needed for f in networks.downloads(n)))


def network_options(table: str, case: str) -> str:
    extractor = shlex.quote(case_model(table, case).extractor)
    return f"--extractor {extractor} {clip_options(table, case)}"


def sampling_options(table: str, group: str) -> str:
    """Of a sampling job besides its images: precision, memory, batch, and what is measured and kept."""
    about, rows = TABLES[table]["sampling"], rows_of_group(table, group)
    out = [compute_options("sampling", table, models_of(rows))]
    if "batch" in about:
        out.append(f"--batch {about['batch']}")
    out += ["--compiled"] if about.get("compiled") else []
    if features_while_sampling(table):
        kept = sharding_of(table, group)[0] if group == SOLUTIONS else about["keep"]
        out.append(f"{network_options(table, rows[0].case)} --keep {kept}")
    return " ".join(out)


def clip_options(table: str, case: str) -> str:
    clip = TABLES[table].get("clip")
    if not clip or not case_model(table, case).captions:
        return ""
    tag = ["--clip-pretrained", clip["pretrained"]] if clip["pretrained"] else []
    captions = ["--captions", case_model(table, case).name]
    return shlex.join(["--clip", clip["model"], *tag, *captions])


FIGURES = extra_figures()
