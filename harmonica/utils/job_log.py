"""The line that a command of the workflow writes at the end of its log; `harmonica timing` reads it."""

import json
import os
import platform
import sys
import time

from harmonica.utils import gpus

RUN = "HARMONICA_RUN"  # set by the workflow to its start time: it identifies the jobs of one run
SCHEDULED = "SLURM_JOB_ID"  # set by a cluster's scheduler


def log_times(loaded: float | None = None) -> None:
    """Write when the process began, the seconds until `loaded` (imports and weights), total seconds, and where it ran;
    does nothing outside the workflow."""
    if RUN not in os.environ:
        return
    import psutil

    begun = psutil.Process().create_time()
    times = {"begun": begun, "start_up_s": (loaded or begun) - begun, "total_s": time.time() - begun}
    where = {"gpus": gpus.taken(), "machine": platform.node(), "scheduled": SCHEDULED in os.environ}
    times = {k: round(v, 3) for k, v in times.items()}
    print("time: " + json.dumps(times | {"run": float(os.environ[RUN])} | where), file=sys.stderr)
