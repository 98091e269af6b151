import os
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

import yaml

from harmonica import (
    downloads,
    extractors,
    learning,
    methods,
    provenance,
    shards,
    suite,
    timing,
)
from harmonica.errors import UserError, unknown
from harmonica.models import get_model


def load_config() -> dict:
    scale = str(config.get("scale"))
    path = ROOT / "workflow" / "config" / f"{scale}.yaml"
    if scale == "config" or not path.is_file():
        raise unknown("scale", scale, ["pocket", "paper"])
    merged = {**yaml.safe_load(path.read_text()), **config}
    if isinstance(merged["cases"], dict):
        merged["cases"] = {str(case): about for case, about in merged["cases"].items()}
    return merged


def read_rows() -> list[suite.Row]:
    for case in CONFIG["cases"]:
        if not str(case).replace("@", "").replace("-", "").isalnum():
            raise UserError(
                f"the case {case!r} must be made of letters, digits, `-` and `@`: it names files"
            )
    return suite.rows(CONFIG)


try:
    CONFIG = load_config()
    suite.check(
        CONFIG,
        yaml.safe_load(
            (ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text()
        ),
    )
    ROWS = read_rows()
except UserError as e:
    raise WorkflowError(str(e)) from None

os.environ[timing.RUN] = str(time.time())
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH"; '
)  # the rules' `harmonica` is this environment's

OUT = f"results/{CONFIG['scale']}"
BY_SLUG = {r.slug: r for r in ROWS}
CHUNKS = -(-CONFIG["images"] // CONFIG["sampling"]["chunk"])
SHARDS = range(min(CONFIG["sampling"]["shards"], CHUNKS))


wildcard_constraints:
    experiment="[A-Za-z0-9._-]+",
    group="[A-Za-z0-9._@-]+",
    case="[A-Za-z0-9@-]+",
    shard=r"\d+",


def plan_file(slug: str) -> str:
    return f"{OUT}/plans/{slug}.safetensors"


def group_of(row: suite.Row) -> str:
    return row.case if CONFIG["sampling"]["grouping"] == "case" else row.slug


def plans_of(group: str) -> list[str]:
    return [plan_file(r.slug) for r in ROWS if group_of(r) == group]


def manifests_of(case: str) -> list[str]:
    groups = dict.fromkeys(group_of(r) for r in ROWS if r.case == case)
    return [f"{OUT}/samples/{g}/shard{i}.json" for g in groups for i in SHARDS]


def shard_range(shard: int) -> tuple[int, int]:
    """First image and number of images of a shard; shards meet at whole chunks, so that a longer run keeps them."""
    chunk, count = CONFIG["sampling"]["chunk"], len(SHARDS)
    first, end = (
        min(CONFIG["images"], CHUNKS * i // count * chunk) for i in (shard, shard + 1)
    )
    return first, end - first


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
        needs += fetched(row.experiment.model)
    return needs + fetched(
        *getattr(made_by, "files", lambda steps: [])(row.experiment.steps)
    )


def case_model(case: str):
    return get_model(suite.uncached(ROWS, case).experiment.model)


def reference_of(case: str) -> list[str]:
    """The reference of a case's metrics, where the extractor does not bring its own."""
    name = case_model(case).reference
    return [f"{OUT}/reference/{name}"] if name else []
