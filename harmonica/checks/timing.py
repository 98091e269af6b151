"""Where a run of the workflow spent its time, from the last line of each command's log."""

import json
from pathlib import Path

from harmonica.utils import UserError
from harmonica.utils.provenance import usable_cores


def report(folder: Path) -> str:
    """A table of the last run: one line per rule with jobs, seconds and start-up seconds; then the full run.

    Raises UserError if there are no logs of a finished run below `folder`.
    """
    jobs = []
    for log in sorted(Path(folder).rglob("logs/**/*.log")):
        lines = [x for x in log.read_text("utf-8", errors="replace").splitlines() if x.startswith("time: ")]
        if lines:
            jobs.append((log.parent.name, json.loads(lines[-1].removeprefix("time: "))))
    if not jobs:
        raise UserError(f"no logs of finished jobs under {folder}: run the workflow first")
    run = max(t["run"] for _, t in jobs)
    jobs = sorted((job for job in jobs if job[1]["run"] == run), key=lambda job: job[1]["begun"])
    out = [f"{'rule':12} {'jobs':>5} {'total s':>9} {'start-up s':>11} {'longest':>9}"]
    for rule in dict.fromkeys(name for name, _ in jobs):
        own = [times for name, times in jobs if name == rule]
        total, start = sum(t["total_s"] for t in own), sum(t["start_up_s"] for t in own)
        out.append(f"{rule:12} {len(own):5} {total:9.1f} {start:11.1f} {max(t['total_s'] for t in own):9.1f}")
    begun = run or jobs[0][1]["begun"]
    wall = max(t["begun"] + t["total_s"] for _, t in jobs) - begun
    busy, start = sum(t["total_s"] for _, t in jobs), sum(t["start_up_s"] for _, t in jobs)
    alone = sum(t["total_s"] for name, t in jobs if name == "latency")  # has all cores
    cores = usable_cores()
    idle = wall * cores - busy - alone * (cores - 1)
    out.append(f"the workflow's last run: {wall:.0f} s on {cores} cores, {wall * cores:.0f} core-seconds; of these")
    out.append(f"  imports and loading in the jobs: {100 * start / (wall * cores):.1f} %")
    out.append(f"  scheduling, and cores without a job: {100 * idle / (wall * cores):.1f} %")
    return "\n".join(out)
