"""Where a run of the workflow spent its time: from the last line of each command's log, and from Snakemake's records of
when inputs were there and what failed."""

import base64
import json
import re
from collections import Counter
from pathlib import Path

from harmonica.utils import UserError
from harmonica.utils.provenance import usable_cores


def report(folder: Path) -> str:
    """A table of the last run: one line per rule with jobs, seconds, start-up seconds, waiting seconds of jobs whose
    inputs were there, GPU-hours and failures; then the full run.

    Raises UserError if there are no logs of a finished run below `folder`.
    """
    ready = _ready_times(folder)
    jobs = []
    for log in sorted(Path(folder).rglob("logs/**/*.log")):
        lines = [x for x in log.read_text("utf-8", errors="replace").splitlines() if x.startswith("time: ")]
        try:
            found = [json.loads(line.removeprefix("time: ")) for line in lines[-1:]]
        except ValueError:  # the last line of a killed job
            continue
        for own in found:
            times = {"gpus": 0, "machine": "", "scheduled": False} | own
            since = max(times["run"], ready.get(log.resolve(), 0.0))
            jobs.append((log.parent.name, times | {"waited_s": max(0.0, times["begun"] - since)}))
    if not jobs:
        raise UserError(f"no logs of finished jobs under {folder}: run the workflow first")
    run = max(t["run"] for _, t in jobs)
    jobs = sorted((job for job in jobs if job[1]["run"] == run), key=lambda job: job[1]["begun"])
    failed = _failures(folder, run)
    heads = ("rule", "jobs", "total s", "start-up s", "longest", "waiting s", "GPU-hours", "failed")
    out = ["{:12} {:>5} {:>9} {:>11} {:>9} {:>10} {:>10} {:>7}".format(*heads)]
    for rule in dict.fromkeys([*(name for name, _ in jobs), *failed]):
        own = [times for name, times in jobs if name == rule]
        total, start, waited = (sum(t[k] for t in own) for k in ("total_s", "start_up_s", "waited_s"))
        gpu_hours, longest = sum(t["gpus"] * t["total_s"] for t in own) / 3600, max([0.0, *(t["total_s"] for t in own)])
        out.append(
            f"{rule:12} {len(own):5} {total:9.1f} {start:11.1f} {longest:9.1f} {waited:10.1f} {gpu_hours:10.3f} "
            f"{failed[rule]:7}"
        )
    begun = run or jobs[0][1]["begun"]
    wall = max(t["begun"] + t["total_s"] for _, t in jobs) - begun
    busy, start = sum(t["total_s"] for _, t in jobs), sum(t["start_up_s"] for _, t in jobs)
    if any(t["scheduled"] for _, t in jobs):
        machines = len({t["machine"] for _, t in jobs})
        gpu_hours = sum(t["gpus"] * t["total_s"] for _, t in jobs) / 3600
        out.append(
            f"the workflow's last run: {wall:.0f} s on {machines} machine(s) of a cluster, {gpu_hours:.3f} GPU-hours"
        )
        out.append(f"  jobs side by side, on average: {busy / wall:.1f}")
        out.append(f"  imports and loading in the jobs: {100 * start / busy:.1f} %")
        return "\n".join(out)
    alone = sum(t["total_s"] for name, t in jobs if name == "latency")  # has all cores
    cores = usable_cores()
    idle = wall * cores - busy - alone * (cores - 1)
    out.append(f"the workflow's last run: {wall:.0f} s on {cores} cores, {wall * cores:.0f} core-seconds; of these")
    out.append(f"  imports and loading in the jobs: {100 * start / (wall * cores):.1f} %")
    out.append(f"  scheduling, and cores without a job: {100 * idle / (wall * cores):.1f} %")
    return "\n".join(out)


def _snakemake(folder: Path) -> Path | None:
    """Snakemake's folder of the workflow that wrote `folder`."""
    here = Path(folder).resolve()
    return next((p / ".snakemake" for p in (here, *here.parents) if (p / ".snakemake").is_dir()), None)


def _ready_times(folder: Path) -> dict[Path, float]:
    """When the last input of a job was made, by the job's log."""
    snakemake = _snakemake(folder)
    if snakemake is None:
        return {}
    ended: dict[str, float] = {}
    inputs: dict[Path, list[str]] = {}
    for path in (snakemake / "metadata").rglob("*"):
        try:
            encoded = "".join(path.relative_to(snakemake / "metadata").parts).replace("@", "")
            name, record = base64.b64decode(encoded).decode(), json.loads(path.read_text("utf-8"))
            ended[name] = record["endtime"]
            for log in record["log"]:
                inputs[snakemake.parent / log] = record["input"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a folder, or a record of another version
    return {log: max((ended.get(x) or 0.0 for x in names), default=0.0) for log, names in inputs.items()}


def _failures(folder: Path, run: float) -> Counter[str]:
    """Failed attempts by rule, from the logs of Snakemake since the run began."""
    snakemake, found = _snakemake(folder), Counter[str]()
    for log in (snakemake / "log").glob("*.log") if snakemake else ():
        if log.stat().st_mtime >= run:
            found.update(re.findall(r"^Error in rule (\w+)", log.read_text("utf-8", errors="replace"), re.M))
    return found
