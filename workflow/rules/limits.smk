from harmonica.utils import gpus

# What a job takes and may take: GPUs, minutes, memory of the host, and which goes first. At the paper scale all follow
# from the estimate; a job of the pocket scale takes minutes and a gigabyte.
FIRST = 10_000  # priority of what much waits for
HOURS = 24  # at most; a training that is stopped at its limit goes on from its checkpoint when it is tried again
MARGIN = 3  # of the time limit over the estimate
LIBRARIES_MB = 6000  # torch with CUDA


@cache
def predicted(table: str) -> dict[tuple[str, str], estimate.Job]:
    """The jobs of a table by rule and wildcards."""
    gpu = published.get_gpu(TABLES[table]["device"])
    speed = lambda model: published.Published(model, gpu)
    try:
        jobs = estimate.Estimate({table: TABLES[table]}, speed).jobs()
    except UserError as e:  # a job that does not fit into gpu_memory
        raise WorkflowError(str(e)) from None
    return {(j.rule, j.name): j for j in jobs}


@cache
def urgency(table: str) -> dict[estimate.Job, float]:
    """Seconds of the longest chain of jobs that begins with each."""
    return estimate.chains(list(predicted(table).values()))


def estimated(rule: str, *wildcards: str) -> estimate.Job | None:
    """A job as estimated; None at the pocket scale."""
    if not GPU:
        return None
    return predicted(table_of(wildcards[0])).get((rule, "/".join(wildcards)))


def priority(rule: str, *wildcards: str) -> int:
    """Of a job: the longer the chain of jobs that it begins, in minutes, the earlier. At the pocket scale trainings come
    first, those with the most steps before others."""
    job = estimated(rule, *wildcards)
    if job:
        return round(urgency(table_of(wildcards[0]))[job] / 60)
    return (
        10 + BY_SLUG[wildcards[0]].experiment.protocol.steps
        if rule in ("train", "search")
        else 0
    )


def minutes(rule: str, *wildcards: str) -> int:
    """The time limit of a job."""
    job = estimated(rule, *wildcards)
    return min(60 * HOURS, max(30, round(MARGIN * job.seconds / 60))) if job else 60


def memory_mb(rule: str, *wildcards: str) -> int:
    """Memory of the host that a job needs, at most."""
    job = estimated(rule, *wildcards)
    return round(LIBRARIES_MB + job.host / 1e6) if job else 2000


def gpus_of(slug: str) -> int:
    """GPUs that share a training: as many as its cost demands, of those that a machine has."""
    job, limit = estimated("train", slug), workflow.global_resources.get("gpu")
    if not job:
        return GPU
    most, count = limit.value if limit else None, job.slots
    while most is not None and count > max(1, most):
        count //= 2
    return count


# On this machine, jobs run side by side on as many GPUs as it has; `--resources gpu=N` takes fewer. A cluster's scheduler
# knows its own.
if GPU and workflow.is_main_process and workflow.resource_settings.nodes is None:
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", max(1, len(gpus.found())))
