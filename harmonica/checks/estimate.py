"""The estimated cost of a workflow run: time, disk and memory of every rule.

Work is counted in evaluations of the model, from the plans' MACs and the recipes, and multiplied by the time of one:
by the published speed of a GPU (`published`), or as measured on this machine (`measured`). Memory is predicted from
shapes, as the jobs themselves do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np

from harmonica.evaluation.generate import batch_size
from harmonica.experiments import Experiment, Row
from harmonica.experiments import config as configuration
from harmonica.experiments.sharding import shard_count
from harmonica.models import Model, get_model
from harmonica.models.captions import TRAINING_CAPTIONS
from harmonica.plan import REUSE, Plan, macs
from harmonica.plan.costs import run_bytes, weight_bytes
from harmonica.training import LearnedSettings
from harmonica.training.memory import Split
from harmonica.utils import UserError
from harmonica.utils.precision import itemsize_of

SEARCH = 1.15  # rounds of a search for β over those of a training with given β: mean of table 1's nine rows
RECOMPUTED = 4.1 / 3.1  # of the time of an update, with checkpointing
ALL_THREADS = -1
START_UP_S = 20.0  # of a GPU job: imports, weights, the first kernels
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


@dataclass
class Job:
    """One job of the workflow: seconds with start-up, peak bytes of memory, bytes written, and what it waits for."""

    rule: str
    seconds: float
    memory: float = 0.0
    disk: float = 0.0
    after: list[Job] = field(default_factory=list)
    slots: int = 1  # that it takes; 0 is all


@dataclass(frozen=True)
class Estimate:
    """The jobs of tables."""

    tables: dict[str, dict[str, Any]]  # configurations
    speed: Callable[[Model], Speed]
    start_up_s: float = START_UP_S

    def jobs(self) -> list[Job]:
        """All jobs, those that others wait for first. Raises UserError if a job does not fit into gpu_memory."""
        out: list[Job] = []
        plans: dict[str, Job] = {}  # and compressions, by slug
        first: dict[Any, Job] = {}  # by protocol: the metrics of the uncached row, before which nothing is trained
        prepared = self._prepared(out)
        for about in self.tables.values():
            if not about.get("costs"):
                self._images(out, about, plans, first, prepared)
        for about in self.tables.values():
            for row in configuration.rows(about):
                if row.slug not in plans:
                    waits = prepared[row.experiment.protocol.model] + _of(first, row)
                    waits = waits + self._compression(out, about, row, plans, waits)
                    self._plan(out, about, row, plans, waits)
        return out

    def _prepared(self, out: list[Job]) -> dict[str, list[Job]]:
        """What comes before a model's jobs: embedded captions, and encoded images if a method reads them."""
        rows = [(about, r) for about in self.tables.values() for r in configuration.rows(about)]
        done: dict[str, list[Job]] = {r.experiment.protocol.model: [] for _, r in rows}
        for name in done:
            model, speed = get_model(name), self.speed(get_model(name))
            own = [(about, r) for about, r in rows if r.experiment.protocol.model == name]
            if model.hub and any(r.experiment.reads.images for _, r in own):
                disk = IMAGENET * 2 * 2 * 4 * (model.resolution // 8) ** 2
                memory = model.autoencoder_bytes + 32 * 256**2 * 2600
                done[name].append(Job("moments", self.start_up_s + IMAGENET * speed.encoding(), memory, disk))
            if model.hub and model.captions:
                captions = max(about["images"] for about, _ in own) + TRAINING_CAPTIONS
                # the text encoder's half precision is some hundred captions a second on any of these GPUs
                disk = captions * MEAN_TOKENS * TOKEN_BYTES
                done[name].append(Job("embed", self.start_up_s + captions / 200, ENCODER_BYTES, disk))
        out += [job for jobs in done.values() for job in jobs]
        return done

    def _compression(self, out: list[Job], about: dict, row: Row, known: dict[str, Job], after: list[Job]) -> list[Job]:
        """The compression that a row runs on, if it does; its memory is that of two models and a graph."""
        on = row.experiment.compression
        if on is None:
            return []
        if on.slug not in known:
            precision = configuration.precision(about, "training", on.model)
            evaluations, updates = on.compressor.work(on.protocol, on.model.scale)
            speed, cfg = self.speed(on.model), on.protocol.cfg
            seconds = evaluations * speed.evaluation(8, cfg, precision) + updates * speed.update(8, cfg, precision)
            memory = 4 * weight_bytes(on.model.layout)
            known[on.slug] = Job("compress", seconds + self.start_up_s, memory, on.model.layout.parameters, after)
            out.append(known[on.slug])
        return [known[on.slug]]

    def _plan(self, out: list[Job], about: dict, row: Row, plans: dict[str, Job], after: list[Job]) -> None:
        """The training of a row; other plans cost nothing, but wait for the plan they start from."""
        e = row.experiment
        if not isinstance(e.method, LearnedSettings):
            source = next((r for r in configuration.rows(about) if r.slug == row.requires), None)
            if source and source.slug not in plans:
                self._plan(out, about, source, plans, after)
            plans[row.slug] = plans[source.slug] if source else Job("plan", 0.0)
            return
        precision = configuration.precision(about, "training", e.model)
        work, itemsize = e.method.work(e.protocol, e.model.scale), itemsize_of(precision)
        split = Split.of(
            e.model.layout, work.batch, memory_of(about), e.method.checkpointing, itemsize,
            guided=work.guided or work.measured > 0, graph_steps=work.graph_steps, keeps_cache=work.keeps_cache,
        )  # fmt: skip
        speed, cfg = self.speed(e.model), e.protocol.cfg if work.guided else 1.0
        recomputed = RECOMPUTED if split.checkpointing else 1.0
        seconds = (
            work.evaluations * speed.evaluation(work.batch, cfg, precision)
            + work.updates * speed.update(work.batch, cfg, precision) * recomputed
            + work.measured * speed.evaluation(work.batch, e.protocol.cfg, "float32")
        )
        seconds *= SEARCH if e.method.beta is None else 1.0
        plans[row.slug] = Job("train", seconds + self.start_up_s, split.peak, after=after)
        out.append(plans[row.slug])

    def _images(
        self,
        out: list[Job],
        about: dict,
        plans: dict[str, Job],
        first: dict[Any, Job],
        prepared: dict[str, list[Job]],
    ) -> None:
        """Sampling, metrics and latency of a table."""
        rows, sampling, every = configuration.rows(about), about["sampling"], about["images"]
        once = sorted({r.slug: r for r in rows}.values(), key=lambda r: not r.experiment.uncached)
        with_features = "keep" in sampling
        solutions = list({r.slug: r for r in configuration.converged(about)}.values())
        groups = [once] if sampling["grouping"] == "all" else [[r] for r in once]
        for group in [*([solutions] if solutions else []), *groups]:  # those of uncached rows first
            images = min(every, about["converged"]["images"]) if group is solutions else every
            shards = shard_count(images, sampling["chunk"], sampling["shards"])
            waits, seconds, disk, memory = [], 0.0, 0.0, 0.0
            for row in group:
                e, model = row.experiment, row.experiment.model
                own = prepared[e.protocol.model] + _of(first, row)
                own = own + self._compression(out, about, row, plans, own)
                if row.slug not in plans:
                    self._plan(out, about, row, plans, own)
                waits += [*own, plans[row.slug]]
                speed, precision = self.speed(model), configuration.precision(about, "sampling", model)
                plan = stand_in(row)
                batch, peak = _batch(about, plan, model, sampling.get("batch"), precision)
                one = plan.steps * _share(row, rows) * speed.evaluation(batch, e.protocol.cfg, precision)
                one += speed.decoding(batch) + with_features * speed.features()
                seconds, memory = seconds + images * one, max(memory, peak)
                kept = images if group is solutions else min(images, sampling.get("keep", images))
                disk += kept * model.image_bytes + with_features * images * FEATURE_BYTES
            sampled = [
                Job("sample", self.start_up_s + seconds / shards, memory, disk / shards, waits) for _ in range(shards)
            ]
            out += sampled
            for case in about["cases"] if group is not solutions else ():
                of_case = [r for r in group if r.case == case]
                if of_case:
                    model = of_case[0].experiment.model
                    one = self.speed(model).distances(images)
                    one += 0.0 if with_features else images * self.speed(model).features()
                    memory = METRICS_BYTES if model.hub else 0.0
                    out.append(Job("metrics", self.start_up_s + len(of_case) * one, memory, after=sampled))
                    if model.hub and of_case[0].experiment.uncached:
                        first.setdefault(of_case[0].experiment.protocol, out[-1])
        self._latency(out, about, once, plans, rows)

    def _latency(self, out: list[Job], about: dict, once: list[Row], plans: dict[str, Job], table: list[Row]) -> None:
        seconds = memory = 0.0
        for row in once:
            e, latency = row.experiment, about["latency"]
            precision, plan = configuration.precision(about, "latency", e.model), stand_in(row)
            batch, peak = _batch(about, plan, e.model, latency["batch"], precision)
            one = self.speed(e.model).evaluation(batch, e.protocol.cfg, precision, ALL_THREADS)
            seconds += (latency["max_rounds"] + 1) * batch * plan.steps * _share(row, table) * one
            memory = max(memory, peak)
        out.append(Job("latency", self.start_up_s + seconds, memory, after=[plans[r.slug] for r in once], slots=0))


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
    """The plan of a heuristic; matching its MACs to a target tries many."""
    return e.make()[0]


def stand_in(row: Row) -> Plan:
    """The plan of a row, or for a learned or downloaded one a plan that needs at least as much memory."""
    e = row.experiment
    if not (isinstance(e.method, LearnedSettings) or row.requires or e.reads.files):
        return _made(e)
    actions = np.zeros((e.protocol.steps, len(e.model.layout.branches)), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, e.protocol)


def _share(row: Row, table: list[Row]) -> float:
    """The share of the model's MACs that a row's plan computes, per step."""
    e, layout = row.experiment, row.experiment.model.layout
    if row.requires:  # it costs about what its source costs
        return _share(next(r for r in table if r.slug == row.requires), table)
    if isinstance(e.method, LearnedSettings):
        return 1 - 0.01 * e.method.target_cur * layout.branch_macs.sum() / layout.macs
    if e.reads.files:  # downloaded plans are not here yet
        return 1.0
    plan = _made(e)
    return macs(plan, layout) / (plan.steps * layout.macs + layout.once_macs)


def makespan(jobs: list[Job], slots: int) -> float:
    """Seconds until all jobs are done on so many slots: whenever one is free, the ready job with the longest chain of
    jobs after it starts. Raises UserError without a slot."""
    if slots < 1:
        raise UserError(f"a run needs at least one GPU or core, got {slots}")
    followers: dict[int, list[Job]] = {}
    for job in jobs:
        for needed in job.after:
            followers.setdefault(id(needed), []).append(job)
    chain: dict[int, float] = {}

    def length(job: Job) -> float:
        if id(job) not in chain:
            chain[id(job)] = job.seconds + max((length(j) for j in followers.get(id(job), [])), default=0.0)
        return chain[id(job)]

    known = {id(j) for j in jobs}
    missing = {id(j): sum(id(n) in known for n in j.after) for j in jobs}
    ready = [(-length(j), k, j) for k, j in enumerate(jobs) if not missing[id(j)]]
    heapq.heapify(ready)
    running: list[tuple[float, int, Job]] = []
    now, free, count = 0.0, slots, len(jobs)
    while ready or running:
        while ready and free >= (ready[0][2].slots or slots):
            _, k, job = heapq.heappop(ready)
            free -= job.slots or slots
            heapq.heappush(running, (now + job.seconds, k, job))
        now, _, done = heapq.heappop(running)
        free += done.slots or slots
        for job in followers.get(id(done), []):
            missing[id(job)] -= 1
            if not missing[id(job)]:
                count += 1
                heapq.heappush(ready, (-length(job), count, job))
    return now


def text(jobs: list[Job], slots: int, device: str, unit: str = "GPU") -> str:
    """One line per rule, and the total."""
    lines = [f"{'rule':10} {'jobs':>6} {unit + '-hours':>10} {'disk':>11} {'peak memory':>12}"]
    for rule in dict.fromkeys(j.rule for j in jobs):
        own = [j for j in jobs if j.rule == rule]
        hours, disk, peak = sum(j.seconds for j in own) / 3600, sum(j.disk for j in own), max(j.memory for j in own)
        lines.append(f"{rule:10} {len(own):6} {hours:10.3f} {disk / 1e9:8.1f} GB {peak / 2**30:8.3g} GiB")
    hours, wall = sum(j.seconds * (j.slots or 1) for j in jobs) / 3600, makespan(jobs, slots) / 3600
    lines.append(
        f"total: {hours:.3g} {unit}-hours on {device} ({wall:.3g} h on {slots}), "
        f"peak {max(j.memory for j in jobs) / 2**30:.3g} GiB, disk {sum(j.disk for j in jobs) / 1e9:.0f} GB"
    )
    return "\n".join(lines)
