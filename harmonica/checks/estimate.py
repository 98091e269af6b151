"""The estimated cost of a workflow run: time, disk and memory of every rule.

Work is counted in evaluations of the model, from the plans' MACs and the recipes, and multiplied by this machine's time
for one, measured on a few batches at the true shape with random weights: run it on the target machine.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import get_extractor
from harmonica.evaluation.metrics import Evidence, measure
from harmonica.evaluation.references import Reference
from harmonica.execution import Guided, Plain
from harmonica.experiments.config import Row, rows, uncached
from harmonica.experiments.sharding import shard_count
from harmonica.models import Model, get_model
from harmonica.models.loading import decoder, load_autoencoder
from harmonica.models.random_weights import build_autoencoder, random_model, weight_bytes
from harmonica.plan import Protocol, macs
from harmonica.samplers import make_sampler
from harmonica.training import LearnedSettings, Recipe, sdt
from harmonica.training.logits import Logits
from harmonica.training.soft import Soft
from harmonica.utils.memory import Peak

REPEATS = 3
LONG_S = 2.0
SEARCH = 1.15  # rounds of a search for β over those of a training with given β: mean of table 1's nine rows
CPU_MACS = 5e11  # of a batch that is timed on a CPU, where larger ones are no faster per image
SAMPLE_OF_FEATURES = 2000  # metrics are timed on this many, then scaled


@dataclass
class Rule:
    """Totals of one rule's jobs: their number, seconds with start-up, bytes written; peak memory (bytes) of one."""

    jobs: int = 0
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    def add(self, jobs: int, seconds: float, memory: float, disk: float = 0.0) -> None:
        self.jobs += jobs
        self.seconds += seconds
        self.disk += disk
        self.memory = max(self.memory, memory)


class Machine:
    """Seconds and bytes that one model's work takes here, each measured once."""

    def __init__(self, model: Model):
        self.model = model
        self.backbone = random_model(model)
        self.weights = float(weight_bytes(model))
        self.memory = 0.0

    def tried(self, batch: int, cfg: float = 1.0) -> int:
        """How many images of a batch are timed: on a CPU up to CPU_MACS."""
        one = self.backbone.layout.macs * (1 if cfg == 1.0 else 2)
        return batch if torch.cuda.is_available() else max(1, min(batch, int(CPU_MACS / one)))

    def timed(self, once: Callable[[], Any], share: float = 1.0) -> float:
        """Median seconds of one call after a warm-up; a call above LONG_S is not repeated. `share`: the part of the
        intended batch that it runs."""
        peak, times = Peak(), []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            once()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            if times[0] > LONG_S:
                break
        self.memory = max(self.memory, 1e6 * peak.megabytes() / share)
        return statistics.median(times[1:] or times)

    def _begin(self, batch: int, cfg: float) -> tuple[Guided, torch.Tensor]:
        device = self.backbone.device
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        protocol = Protocol(self.model.name, self.model.sampler, 1, cfg)
        noise = torch.randn(batch, *self.backbone.latent_shape, device=device)
        return Guided.by(protocol, self.backbone, labels), noise

    @cache  # noqa: B019  (a machine lives as long as the process)
    def evaluation(self, batch: int, cfg: float, threads: int = 0) -> float:
        """Seconds per image of one plain evaluation, with guidance, on `threads` threads (0: as set)."""
        tried, before = self.tried(batch, cfg), torch.get_num_threads()
        guided, noise = self._begin(tried, cfg)
        torch.set_num_threads(threads or before)
        with torch.inference_mode():
            seconds = self.timed(lambda: guided(noise, 500, Plain(self.backbone)), tried / batch) / tried
        torch.set_num_threads(before)
        return seconds

    @cache  # noqa: B019
    def update(self, batch: int, cfg: float) -> float:
        """Seconds per image of one update: teacher, student, and gradient of a row of logits."""
        tried = self.tried(batch, cfg)
        guided, noise = self._begin(tried, cfg)
        sampler, branches = make_sampler("ddim", 2), len(self.backbone.layout.branches)
        logits = Logits.random(2, branches, range(1, 2), Recipe(1, tried, 0.01), torch.Generator(), noise.device)
        both = self.timed(
            lambda: sdt.trajectory(guided, sampler, logits, Soft(self.backbone, 0.1), noise, torch.ones(2), 1e-7),
            tried / batch,
        )
        return max(0.0, both / tried - self.evaluation(batch, cfg))

    @cache  # noqa: B019
    def decoding(self, batch: int) -> float:
        """Seconds per image"""
        vae = build_autoencoder(self.model) if self.model.hub else load_autoencoder(self.model)
        tried = self.tried(batch)
        decode, latents = decoder(vae.to(self.backbone.device)), self._begin(tried, 1.0)[1]
        with torch.inference_mode():
            return self.timed(lambda: decode(latents), tried / batch) / tried

    @cache  # noqa: B019
    def features(self, batch: int = 100) -> float:
        """Seconds per image, feature network."""
        images, extract = self._images(batch), self._extractor()
        return self.timed(lambda: extract(images)) / batch

    def _images(self, count: int) -> np.ndarray:
        side = self.model.resolution
        shape = (count, side, side) if self.model.extractor == "fashion-mnist-cnn" else (count, side, side, 3)
        return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)

    def _extractor(self) -> Callable:
        return _random_inception() if self.model.hub else get_extractor(self.model.extractor)

    @cache  # noqa: B019
    def distances(self, images: int) -> float:
        """Seconds of the metrics of this many images, scaled from fewer random features."""
        some, real = min(images, SAMPLE_OF_FEATURES), 10_000
        f = self._extractor()(self._images(2))
        rng = np.random.default_rng(0)
        generated, others = (
            Features(*(rng.standard_normal((n, x.shape[1]), dtype=np.float32) for x in (f.pooled, f.spatial, f.logits)))
            for n in (some, real if not self.model.hub else some)
        )
        r = Reference(Gaussian.of(others.pooled), Gaussian.of(others.spatial), others.pooled)
        grows = images / some * real / len(others.pooled)
        return self.timed(lambda: measure(Evidence(generated, r))) * grows


def _random_inception() -> Callable:
    import tempfile
    from pathlib import Path

    from harmonica.evaluation.features.inception import inception_features, save_random_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        save_random_weights(path)
        return inception_features(path)


def start_ups() -> dict[str, float]:
    """Seconds that a job of each rule takes for its largest imports, in fresh processes."""
    needs = {"plan": "torch._dynamo", "sample": "diffusers.models.autoencoders.autoencoder_kl",
             "metrics": "torch, cleanfid.fid", "latency": "torch", "table": "matplotlib.pyplot, pandas"}  # fmt: skip

    def seconds(modules: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, capture_output=True)
        return time.perf_counter() - started

    with ThreadPoolExecutor(max(1, min(4, len(os.sched_getaffinity(0))))) as pool:
        return dict(zip(needs, pool.map(seconds, needs.values()), strict=True))


def estimate(tables: dict[str, dict], scale: str, start_up: dict[str, float]) -> dict[str, Rule]:
    """Rules of the workflow for these tables (name -> configuration); `start_up`: seconds of a job of each rule."""
    machines: dict[str, Machine] = {}
    rules = {name: Rule() for name in ("plan", "sample", "metrics", "latency", "table")}
    planned: set[str] = set()
    for about in tables.values():
        table = rows(about)
        for r in table:
            name = r.experiment.protocol.model
            if name not in machines:
                machines[name] = Machine(get_model(name))
            if r.slug not in planned:
                planned.add(r.slug)
                _plan(rules["plan"], r, machines[name], scale, start_up["plan"])
        if not about.get("costs"):
            _images(rules, about, table, machines, start_up)
        rules["table"].add(1, start_up["table"], 0.0)
    return rules


def _plan(rule: Rule, row: Row, machine: Machine, scale: str, start_up_s: float) -> None:
    e = row.experiment
    if not isinstance(e.method, LearnedSettings):
        rule.add(1, 1.5, 0.0)
        return
    work = e.method.work(e.protocol, scale)
    cfg = e.protocol.cfg if work.guided else 1.0
    seconds = work.evaluations * machine.evaluation(work.batch, cfg) + work.updates * machine.update(work.batch, cfg)
    seconds *= SEARCH if e.method.beta is None else 1.0
    rule.add(1, seconds + start_up_s, machine.weights + machine.memory)


def _share(row: Row, table: list[Row]) -> tuple[int, float]:
    """Steps of a row, and the share of the model's MACs that its plan computes."""
    e, layout, steps = row.experiment, row.experiment.model.layout, row.experiment.protocol.steps
    if row.requires:  # it costs about what its source costs
        source = next(r for r in table if r.slug == row.requires)
        return steps, _share(source, table)[1]
    if isinstance(e.method, LearnedSettings):
        reused = 0.01 * e.method.target_cur * layout.branch_macs.sum()
        return steps, 1 - reused / layout.macs
    if e.reads.files:  # downloaded plans are not here yet
        return steps, 1.0
    plan, _ = e.make()
    return plan.steps, macs(plan, layout) / (plan.steps * layout.macs + layout.once_macs)


def _images(
    rules: dict[str, Rule], about: dict, table: list[Row], machines: dict[str, Machine], start_up: dict[str, float]
):
    sampling, images = about["sampling"], about["images"]
    once = list({r.slug: r for r in table}.values())
    cores = len(os.sched_getaffinity(0))  # that job has the machine to itself
    groups = 1 if sampling["grouping"] == "all" else len(once)
    shards = shard_count(images, sampling["chunk"], sampling["shards"])
    seconds = timed = disk = 0.0
    for r in once:
        cfg, machine = r.experiment.protocol.cfg, machines[r.experiment.protocol.model]
        steps, share = _share(r, table)
        sampling_s = images * steps * share * machine.evaluation(sampling["batch"], cfg)
        seconds += sampling_s + images * machine.decoding(sampling["batch"])
        disk += images * machine._images(1).nbytes
        batch, rounds = about["latency"]["batch"], about["latency"]["rounds"]
        timed += (rounds + 1) * batch * steps * share * machine.evaluation(batch, cfg, cores)
    most = max(m.weights + m.memory for m in machines.values())
    rules["sample"].add(groups * shards, seconds + groups * shards * start_up["sample"], most, disk)
    rules["latency"].add(1, timed + start_up["latency"], most)
    for case in about["cases"]:
        own = [r for r in table if r.case == case]
        machine = machines[uncached(table, case).experiment.protocol.model]
        work = len(own) * (images * machine.features() + machine.distances(images))
        rules["metrics"].add(1, work + start_up["metrics"], machine.memory)


def text(rules: dict[str, Rule], cores: int, gpu: bool) -> str:
    """One line per rule, a total."""
    lines = [f"{'rule':10} {'jobs':>6} {'hours':>9} {'disk':>10} {'memory of a job':>16}"]
    total = Rule()
    for name, r in rules.items():
        lines.append(f"{name:10} {r.jobs:6} {r.seconds / 3600:9.3f} {r.disk / 1e9:7.2f} GB {r.memory / 1e9:13.2f} GB")
        total.add(r.jobs, r.seconds, r.memory, r.disk)
    alone = rules["latency"].seconds  # it has the machine to itself
    wall = total.seconds if gpu else alone + (total.seconds - alone) / cores
    lines.append(f"{'all':10} {total.jobs:6} {total.seconds / 3600:9.3f} {total.disk / 1e9:7.2f} GB "
                 f"{total.memory / 1e9:13.2f} GB")  # fmt: skip
    what = "one GPU" if gpu else f"{cores} cores"
    lines.append(f"about {wall / 3600:.2f} hours ({wall / 60:.1f} minutes) on {what}, at this machine's speed")
    return "\n".join(lines)
