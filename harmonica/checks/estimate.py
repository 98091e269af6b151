"""The estimated cost of a workflow run: time, disk and memory of every rule.

Work is counted in evaluations of the model, from the plans' MACs and the recipes, and multiplied by the time of one:
by the published speed of a GPU (`published`), or as measured on this machine (`measured`). Memory is predicted from
shapes, as the jobs themselves do.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np

from harmonica.checks.published import reference
from harmonica.evaluation.generate import batch_size
from harmonica.experiments import Experiment, Row, sharding
from harmonica.experiments import config as configuration
from harmonica.models import Model, get_model
from harmonica.models.captions import TRAINING_CAPTIONS
from harmonica.plan import REUSE, Plan, macs
from harmonica.plan import Protocol as SamplingProtocol
from harmonica.plan.costs import run_bytes, weight_bytes
from harmonica.training import LearnedSettings
from harmonica.training.memory import Split
from harmonica.utils import UserError
from harmonica.utils.precision import itemsize_of

SEARCH = 1.15  # rounds of a search for β over those of a training with given β: mean of HarmoniCa's 27 pocket rows
RECOMPUTED = 4.1 / 3.1  # of the time of an update, with checkpointing
ALL_THREADS = -1
START_UP_S = 20.0  # of a GPU job: imports, weights, the first kernels
COMPILING_S = 30.0  # of a kind of step, before it is timed; a guess, no GPU has timed it
POCKET_START_UP_S = 4.0  # of a job at the pocket scale
IMAGENET = 1_281_167
FEATURE_BYTES = 4 * (2048 + 2023 + 1008)  # of an image
TOKEN_BYTES, MEAN_TOKENS = 2 * 4096, 14  # of a caption's embedding
ENCODER_BYTES = 9.6e9  # T5-XXL's in float16, for whom captions are embedded
METRICS_BYTES = 3e9  # features in float64, and a block of distances


class Speed(Protocol):
    """Seconds per image of a model's work; see `published.Published`."""

    def evaluation(self, batch: int, cfg: float, precision: str = "float32", threads: int = 0) -> float: ...
    def update(self, batch: int, cfg: float, precision: str = "float32") -> float: ...
    def decoding(self, batch: int) -> float: ...
    def encoding(self) -> float: ...
    def features(self, batch: int = 100) -> float: ...
    def distances(self, images: int) -> float: ...


@dataclass(eq=False)
class Job:
    """One job of the workflow: seconds with start-up, peak bytes of memory, bytes written, and what it waits for.

    `name` has the wildcards of its rule, separated by slashes.
    """

    rule: str
    seconds: float
    memory: float = 0.0
    disk: float = 0.0
    after: list[Job] = field(default_factory=list)
    slots: int = 1  # that it takes; 0 is all of a machine
    name: str = ""
    host: float = 0.0  # bytes of the host's memory, besides libraries


@dataclass(frozen=True)
class Estimate:
    """The jobs of tables."""

    tables: dict[str, dict[str, Any]]  # configurations
    speed: Callable[[Model], Speed]
    start_up_s: float = START_UP_S

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        return {table: configuration.rows(about) for table, about in self.tables.items()}

    def jobs(self) -> list[Job]:
        """All jobs, those that others wait for first. Raises UserError if a job does not fit into gpu_memory."""
        out: list[Job] = []
        plans: dict[str, Job] = {}  # and compressions, by slug
        first: dict[Any, Job] = {}  # by protocol: the metrics of the uncached row, before which nothing is trained
        prepared = self._prepared(out)
        for table, about in self.tables.items():
            if not about.get("costs"):
                self._images(out, table, about, plans, first, prepared)
        for table in self.tables:
            for row in self.rows[table]:
                if row.slug not in plans:
                    waits = prepared[row.experiment.protocol.model] + _of(first, row)
                    waits = waits + self._compression(out, self.tables[table], row, plans, waits)
                    self._plan(out, table, row, plans, waits)
        return out

    def _prepared(self, out: list[Job]) -> dict[str, list[Job]]:
        """What comes before a model's jobs: embedded captions, and encoded images if a method reads them."""
        rows = [(about, r) for table, about in self.tables.items() for r in self.rows[table]]
        done: dict[str, list[Job]] = {r.experiment.protocol.model: [] for _, r in rows}
        for name in done:
            model, speed = get_model(name), self.speed(get_model(name))
            own = [(about, r) for about, r in rows if r.experiment.protocol.model == name]
            if model.hub and any(_reads_images(r.experiment) for _, r in own):
                disk = IMAGENET * 2 * 2 * 4 * (model.resolution // 8) ** 2
                memory = model.autoencoder_bytes + 32 * 256**2 * 2600
                parts = moments_parts(model, own[0][0])
                seconds = self.start_up_s + IMAGENET * speed.encoding() / parts
                done[name] += [
                    Job("moments", seconds, memory, disk / parts, name=f"{name}/{k}", host=2e9) for k in range(parts)
                ]
            if model.hub and model.captions:
                captions = max(configuration.images_of(about, [r]) for about, r in own) + TRAINING_CAPTIONS
                # the text encoder's half precision is some hundred captions a second on any of these GPUs
                disk = captions * MEAN_TOKENS * TOKEN_BYTES
                seconds = self.start_up_s + captions / 200
                done[name].append(Job("embed", seconds, ENCODER_BYTES, disk, name=name, host=1.2 * ENCODER_BYTES))
        out += [job for jobs in done.values() for job in jobs]
        return done

    def _compression(self, out: list[Job], about: dict, row: Row, known: dict[str, Job], after: list[Job]) -> list[Job]:
        """The compression that a row runs on, if it does."""
        on = row.experiment.compression
        if on is None:
            return []
        if on.slug not in known:
            precision = configuration.precision(about, "training", on.model)
            evaluations, updates = on.compressor.work(on.protocol, on.model.scale)
            speed, cfg = self.speed(on.model), on.protocol.cfg
            seconds = evaluations * speed.evaluation(8, cfg, precision) + updates * speed.update(8, cfg, precision)
            memory = on.compressor.peak(on.model, memory_of(about))
            disk = on.model.layout.parameters
            known[on.slug] = Job("compress", seconds + self.start_up_s, memory, disk, after, name=on.slug)
            out.append(known[on.slug])
        return [known[on.slug]]

    def _plan(self, out: list[Job], table: str, row: Row, plans: dict[str, Job], after: list[Job]) -> None:
        """The training or search of a row, after that of the plan it starts from; other plans cost nothing. Of a row
        that goes on from a search this is an upper bound: the search is counted in both."""
        e, about = row.experiment, self.tables[table]
        learned = e.method if isinstance(e.method, LearnedSettings) else None
        source = next((r for r in self.rows[table] if r.slug == row.requires), None)
        if source and source.slug not in plans:
            self._plan(out, table, source, plans, after)
        if not e.reads.weights:
            plans[row.slug] = plans[source.slug] if source else Job("plan", 0.0)
            return
        precision = configuration.precision(about, "training", e.model)
        work, itemsize = e.method.work(e.protocol, e.model.scale), itemsize_of(precision)
        split = Split.of(
            e.model.layout, work.batch, memory_of(about), learned.checkpointing if learned else None, itemsize,
            guided=work.guided or work.measured > 0, graph_steps=work.graph_steps, keeps_cache=work.keeps_cache,
        )  # fmt: skip
        speed, cfg = self.speed(e.model), e.protocol.cfg if work.guided else 1.0
        recomputed = RECOMPUTED if split.checkpointing else 1.0
        seconds = (
            work.evaluations * speed.evaluation(work.batch, cfg, precision)
            + work.updates * speed.update(work.batch, cfg, precision) * recomputed
            + work.measured * speed.evaluation(work.batch, e.protocol.cfg, "float32")
        )
        seconds *= SEARCH if learned and learned.beta is None else 1.0
        sharing = about.get("training", {"hours": 1.0, "gpus": 1})
        gpus = sharding.processes_of(seconds, sharing["hours"], sharing["gpus"], work.batch) if learned else 1
        host = gpus * weight_bytes(e.model.layout, 4) + split.offload * split.peak
        rule, wall = "train" if learned else "search", seconds / gpus + self.start_up_s
        after = [*after, plans[source.slug]] if source else after
        job = Job(rule, wall, split.peak, after=after, slots=gpus, name=row.slug, host=host)
        plans[row.slug] = job
        out.append(job)

    def _images(
        self,
        out: list[Job],
        table: str,
        about: dict,
        plans: dict[str, Job],
        first: dict[Any, Job],
        prepared: dict[str, list[Job]],
    ) -> None:
        """Sampling, metrics and latency of a table."""
        rows, sampling = self.rows[table], about["sampling"]
        once = sorted({r.slug: r for r in rows}.values(), key=lambda r: not r.experiment.uncached)
        with_features = "keep" in sampling
        solutions = list({r.slug: r for r in configuration.converged(about)}.values())
        groups = [once] if sampling["grouping"] == "all" else [[r] for r in once]
        for group in [*([solutions] if solutions else []), *groups]:  # those of uncached rows first
            slugs = {r.slug for r in group}
            images = configuration.images_of(about, [r for r in [*rows, *solutions] if r.slug in slugs])
            images = min(images, about["converged"]["images"]) if group is solutions else images
            shards = shard_count(about, group, rows, images)
            name = "converged" if group is solutions else "all" if sampling["grouping"] == "all" else group[0].slug
            waits, seconds, disk, memory = [], 0.0, 0.0, 0.0
            for row in group:
                e, model = row.experiment, row.experiment.model
                own = prepared[e.protocol.model] + _of(first, row)
                own = own + self._compression(out, about, row, plans, own)
                if row.slug not in plans:
                    self._plan(out, table, row, plans, own)
                waits += [*own, plans[row.slug]]
                speed, precision = self.speed(model), configuration.precision(about, "sampling", model)
                plan = stand_in(row)
                batch, peak = _batch(about, plan, model, sampling.get("batch"), precision)
                one = image_seconds(about, row, rows, speed, batch)
                seconds, memory = seconds + images * one, max(memory, peak)
                kept = images if group is solutions else min(images, sampling.get("keep", images))
                disk += kept * model.image_bytes + with_features * images * FEATURE_BYTES
            host = max(weight_bytes(r.experiment.model.layout, 4) for r in group)
            host += 3 * sampling["chunk"] * max(r.experiment.model.image_bytes for r in group)
            divided = (self.start_up_s + seconds / shards, memory, disk / shards, waits)
            sampled = [Job("sample", *divided, name=f"{table}/{name}/{k}", host=host) for k in range(shards)]
            out += sampled
            for case in about["cases"] if group is not solutions else ():
                of_case = [r for r in group if r.case == case]
                if of_case:
                    model = of_case[0].experiment.model
                    one = self.speed(model).distances(images)
                    one += 0.0 if with_features else images * self.speed(model).features()
                    memory = METRICS_BYTES if model.hub else 0.0
                    solved = min(images, about["converged"]["images"]) if solutions else 0
                    host = METRICS_BYTES + (solved + 3 * sampling["chunk"]) * model.image_bytes
                    seconds = self.start_up_s + len(of_case) * one
                    named = f"{table}/{case}/{name}"
                    out.append(Job("metrics", seconds, memory, after=sampled, name=named, host=host))
                    if model.hub and of_case[0].experiment.uncached:
                        first.setdefault(of_case[0].experiment.protocol, out[-1])
        out.append(self._latency(table, about, once, plans, rows))

    def _latency(self, table: str, about: dict, once: list[Row], plans: dict[str, Job], rows: list[Row]) -> Job:
        seconds = memory = 0.0
        for row in once:
            e, latency = row.experiment, about["latency"]
            precision, plan = configuration.precision(about, "latency", e.model), stand_in(row)
            batch, peak = _batch(about, plan, e.model, latency["batch"], precision)
            used = [precision, *(latency.get("bases", []) if e.uncached else [])]
            speed = self.speed(e.model)
            one = sum(speed.evaluation(batch, e.protocol.cfg, p, ALL_THREADS) for p in used)
            seconds += (latency["max_rounds"] + 1) * batch * _evaluations(row, rows) * one
            seconds += COMPILING_S * e.protocol.steps * latency.get("compiled", False)
            memory = max(memory, peak)
        after, host = [plans[r.slug] for r in once], weight_bytes(once[0].experiment.model.layout, 4)
        return Job("latency", self.start_up_s + seconds, memory, after=after, slots=0, name=table, host=host)


def _reads_images(e: Experiment) -> bool:
    on = e.compression
    return e.reads.images or bool(on and on.compressor.images)


def image_seconds(about: dict, row: Row, rows: list[Row], speed: Speed, batch: int) -> float:
    """Seconds per image of a sampling job."""
    e, model = row.experiment, row.experiment.model
    precision = configuration.precision(about, "sampling", model)
    evaluated = _evaluations(row, rows) * speed.evaluation(batch, e.protocol.cfg, precision)
    return evaluated + speed.decoding(batch) + ("keep" in about["sampling"]) * speed.features()


def shard_count(about: dict, group: list[Row], rows: list[Row], images: int) -> int:
    """Jobs that share the images of a group of rows, by their cost on the reference device."""
    seconds = sum(images * image_seconds(about, r, rows, reference(r.experiment.model), 1) for r in group)
    sampling = about["sampling"]
    return sharding.shard_count(images, sampling["chunk"], sharding.shards_of(seconds, sampling["minutes"]))


def moments_parts(model: Model, about: dict) -> int:
    """Jobs that share the encoding of ImageNet."""
    return sharding.shards_of(IMAGENET * reference(model).encoding(), about["sampling"]["minutes"])


def _batch(about: dict, plan: Plan, model: Model, requested: int | None, precision: str) -> tuple[int, float]:
    """Images per forward pass, and peak bytes, as a sampling job has them."""
    guided, itemsize = plan.protocol.cfg != 1.0, itemsize_of(precision)
    batch = batch_size(plan, requested, precision, memory_of(about))
    peak = run_bytes(plan, model.layout, batch, itemsize, guided) + model.autoencoder_bytes
    decoding = weight_bytes(model.layout, itemsize) + model.autoencoder_bytes + model.decoding_bytes
    return batch, max(peak, decoding if model.hub else 0.0)


def memory_of(about: dict) -> float | None:
    """Bytes of a GPU that a job may use, or None."""
    return about["gpu_memory"] * 2**30 if "gpu_memory" in about else None


def _of(first: dict[Any, Job], row: Row) -> list[Job]:
    """The check that a row waits for."""
    own = first.get(row.experiment.protocol)
    return [own] if own and not row.experiment.uncached else []


@cache
def _made(e: Experiment) -> Plan:
    """The plan of a heuristic."""
    return e.make()[0]


def _is_predicted(row: Row) -> bool:
    """Whether only the target of a row's plan is known: it is learned or searched on the model, downloaded, or the
    closest of many to a CUR."""
    e = row.experiment
    matched = "target_cur" in dict(row.given) and not e.method.plain
    reads = e.reads
    return bool(isinstance(e.method, LearnedSettings) or matched or row.requires or reads.files or reads.weights)


def stand_in(row: Row) -> Plan:
    """The plan of a row, or if only its target is known a plan that needs at least as much memory."""
    e = row.experiment
    if not _is_predicted(row):
        return _made(e)
    return _alternating(e.protocol)


@cache
def _alternating(protocol: SamplingProtocol) -> Plan:
    """Every branch is computed and reused in turn, so that the cache has all of them."""
    actions = np.zeros((protocol.steps, len(get_model(protocol.model).layout.branches)), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, protocol)


def _evaluations(row: Row, table: list[Row]) -> float:
    """Full evaluations of the model that cost what a row's plan costs."""
    e, layout = row.experiment, row.experiment.model.layout
    if row.requires:  # it costs about what its source costs
        source = next(r for r in table if r.slug == row.requires)
        return e.protocol.steps * _evaluations(source, table) / source.experiment.protocol.steps
    if not _is_predicted(row):
        plan = _made(e)
        whole = plan.steps * layout.macs + layout.once_macs
        return plan.steps * (1.0 if e.method.plain else macs(plan, layout) / whole)
    target = getattr(e.method, "target_cur", 0.0)  # a downloaded plan is not here yet
    return e.protocol.steps * (1 - 0.01 * target * layout.branch_macs.sum() / layout.macs)


@dataclass(frozen=True)
class Schedule:
    """When jobs run on so many slots, in seconds from the start."""

    begun: dict[Job, float]
    slots: int
    makespan: float

    @property
    def efficiency(self) -> float:
        """The share of the slots' time with a job on it."""
        return sum(j.seconds * (j.slots or 1) for j in self.begun) / (self.slots * self.makespan)


def chains(jobs: list[Job]) -> dict[Job, float]:
    """Seconds of the longest chain of jobs that begins with each."""
    out: dict[Job, float] = dict.fromkeys(jobs, 0.0)
    for job in reversed(_in_order(jobs)):
        out[job] += job.seconds
        for needed in job.after:
            if needed in out:
                out[needed] = max(out[needed], out[job])
    return out


def critical_path(jobs: list[Job]) -> list[Job]:
    """The longest chain of jobs, which no number of slots shortens."""
    length, followers = chains(jobs), _followers(jobs)
    path = [max(jobs, key=length.__getitem__)]
    while followers[path[-1]]:
        path.append(max(followers[path[-1]], key=length.__getitem__))
    return path


def _followers(jobs: list[Job]) -> dict[Job, list[Job]]:
    out: dict[Job, list[Job]] = {job: [] for job in jobs}
    for job in jobs:
        for needed in dict.fromkeys(job.after):
            if needed in out:
                out[needed].append(job)
    return out


def _in_order(jobs: list[Job]) -> list[Job]:
    """The jobs, those that others wait for first."""
    known, done = set(jobs), dict[Job, None]()

    def add(job: Job) -> None:
        if job not in done:
            for needed in job.after:
                if needed in known:
                    add(needed)
            done[job] = None

    for job in jobs:
        add(job)
    return list(done)


def simulate(jobs: list[Job], slots: int, machine: int | None = None) -> Schedule:
    """Run the jobs on so many slots, `machine` of which (default: all) are one machine: whenever some are free, of the
    ready jobs that fit the one with the longest chain after it starts. A job is on one machine, and slower where that
    has fewer slots than it takes.

    On several machines, one is kept free for the first job that does not fit, as backfilling schedulers do: others
    start there only if they end before it could start. Raises UserError without a slot.
    """
    if slots < 1:
        raise UserError(f"a run needs at least one GPU or core, got {slots}")
    size = min(machine or slots, slots)
    free = [min(size, slots - first) for first in range(0, slots, size)]
    sizes, length, followers = list(free), chains(jobs), _followers(jobs)
    missing = {j: len({n for n in j.after if n in followers}) for j in jobs}
    ready = sorted((j for j in jobs if not missing[j]), key=length.__getitem__)
    begun, running, now = dict[Job, float](), list[tuple[float, int, Job, int, int]](), 0.0

    def takes(job: Job, k: int) -> int:
        return min(job.slots or sizes[k], sizes[k])

    def seconds(job: Job, k: int) -> float:
        return job.seconds * max(1, job.slots) / max(1, min(job.slots, sizes[k]))

    def earliest(job: Job, k: int) -> float:
        left = free[k]
        for end, _, _, where, slots_ in sorted(running):
            if where == k:
                left += slots_
                if left >= takes(job, k):
                    return end
        return now

    while ready or running:
        kept: tuple[int, float] | None = None
        for job in reversed(list(ready)):
            fitting = [
                k
                for k, left in enumerate(free)
                if left >= takes(job, k) and (kept is None or k != kept[0] or now + seconds(job, k) <= kept[1])
            ]
            if fitting:
                k = min(fitting, key=free.__getitem__)
                free[k] -= takes(job, k)
                ready.remove(job)
                begun[job] = now
                heapq.heappush(running, (now + seconds(job, k), len(begun), job, k, takes(job, k)))
            elif kept is None and len(free) > 1:
                kept = min(((k, earliest(job, k)) for k in range(len(free))), key=lambda x: x[1])
            if not any(free):
                break
        now, _, done, k, released = heapq.heappop(running)
        free[k] += released
        for job in followers[done]:
            missing[job] -= 1
            if not missing[job]:
                bisect.insort(ready, job, key=length.__getitem__)
    return Schedule(begun, slots, now)


def makespan(jobs: list[Job], slots: int) -> float:
    """Seconds until all jobs are done on so many slots of one machine."""
    return simulate(jobs, slots).makespan


def simulation(jobs: list[Job], counts: list[int], machine: int, unit: str = "GPU") -> str:
    """One line per number of slots, and the longest chain of jobs."""
    lines = [f"{unit + 's':>6} {'hours':>8} {'efficiency':>11}"]
    for count in counts:
        found = simulate(jobs, count, machine)
        lines.append(f"{count:6} {found.makespan / 3600:8.2f} {found.efficiency:11.2f}")
    path = critical_path(jobs)
    lines.append(f"the longest chain of jobs takes {sum(j.seconds for j in path) / 3600:.2f} h:")
    lines += [f"  {j.seconds / 3600:6.2f} h  {j.rule} {j.name}" + f", {j.slots} {unit}s" * (j.slots > 1) for j in path]
    return "\n".join(lines)


def text(jobs: list[Job], slots: int, device: str, unit: str = "GPU") -> str:
    """One line per rule, and the total."""
    lines = [f"{'rule':10} {'jobs':>6} {unit + '-hours':>10} {'disk':>11} {'peak memory':>12}"]
    for rule in dict.fromkeys(j.rule for j in jobs):
        own = [j for j in jobs if j.rule == rule]
        hours, disk, peak = (
            sum(j.seconds * (j.slots or 1) for j in own) / 3600,
            sum(j.disk for j in own),
            max(j.memory for j in own),
        )
        lines.append(f"{rule:10} {len(own):6} {hours:10.3f} {disk / 1e9:8.1f} GB {peak / 2**30:8.3g} GiB")
    hours, wall = sum(j.seconds * (j.slots or 1) for j in jobs) / 3600, makespan(jobs, slots) / 3600
    lines.append(
        f"total: {hours:.3g} {unit}-hours on {device} ({wall:.3g} h on {slots}), "
        f"peak {max(j.memory for j in jobs) / 2**30:.3g} GiB, disk {sum(j.disk for j in jobs) / 1e9:.0f} GB"
    )
    return "\n".join(lines)
