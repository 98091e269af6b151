"""Where a run of the workflow spent its time, from the line that every command leaves at the end of its log."""

import json
import os
from pathlib import Path

from harmonica.errors import UserError


def report(folder: Path) -> str:
    """A table: a line a rule with jobs, seconds and how much of them was start-up; then the whole run.

    Raises UserError when there are no logs of a finished run below `folder`.
    """
    jobs = []
    for log in sorted(Path(folder).rglob("logs/**/*.log")):
        lines = [x for x in log.read_text(errors="replace").splitlines() if x.startswith("time: ")]
        if lines:
            jobs.append((log.parent.name, json.loads(lines[-1].removeprefix("time: "))))
    if not jobs:
        raise UserError(f"no logs of finished jobs under {folder}: run the workflow first")
    out = [f"{'rule':12} {'jobs':>5} {'total s':>9} {'start-up s':>11} {'longest':>9}"]
    for rule in dict.fromkeys(name for name, _ in sorted(jobs, key=lambda job: job[1]["begun"])):
        own = [times for name, times in jobs if name == rule]
        total, start = sum(t["total_s"] for t in own), sum(t["start_up_s"] for t in own)
        out.append(f"{rule:12} {len(own):5} {total:9.1f} {start:11.1f} {max(t['total_s'] for t in own):9.1f}")
    begun = min(t["begun"] for _, t in jobs)
    wall = max(t["begun"] + t["total_s"] for _, t in jobs) - begun
    busy, start = sum(t["total_s"] for _, t in jobs), sum(t["start_up_s"] for _, t in jobs)
    cores = len(os.sched_getaffinity(0))
    out.append(f"first job's start to last job's end: {wall:.0f} s on {cores} cores; all jobs together: {busy:.0f} s")
    out.append(f"start-up of the jobs (imports, loading): {start:.0f} s, {100 * start / busy:.1f} % of their time")
    return "\n".join(out)
