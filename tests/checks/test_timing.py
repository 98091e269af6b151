"""The report of a run, from logs and Snakemake's records made by hand."""

import base64
import json

import pytest

from harmonica.checks.timing import report
from harmonica.utils import UserError


def finish(folder, rule, name, begun, total, ready=0.0, **more):
    """A finished job: the last line of its log, and Snakemake's record of it and of its input."""
    log = folder / "results" / "pocket" / "logs" / rule / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    times = {"begun": begun, "start_up_s": 1.0, "total_s": total, "run": 1000.0} | more
    log.write_text(f"whatever\ntime: {json.dumps(times)}\n")
    records = {f"results/{name}": {"log": [str(log.relative_to(folder))], "input": [f"results/{name}.input"]}}
    records[f"results/{name}.input"] = {"log": [], "input": [], "endtime": ready}
    for path, record in records.items():
        file = folder / ".snakemake" / "metadata" / base64.b64encode(path.encode()).decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"endtime": begun + total} | record))


def line(text, rule) -> list[str]:
    return next(x.split() for x in text.splitlines() if x.startswith(rule))


def test_a_run_on_a_cluster(tmp_path):
    """Two jobs that waited 5 and 0 seconds, three GPUs; one attempt failed, another in a run before."""
    cluster = {"scheduled": True, "gpus": 1}
    finish(tmp_path, "sample", "a", 1015.0, 3600.0, ready=1010.0, machine="n1", **cluster)
    finish(tmp_path, "sample", "b", 1010.0, 1800.0, ready=1010.0, machine="n2", **cluster)
    finish(tmp_path, "train", "c", 1000.0, 10.0, machine="n2", **cluster | {"gpus": 2})
    finish(tmp_path, "sample", "old", 500.0, 9999.0, run=400.0)
    logs = tmp_path / ".snakemake" / "log"
    logs.mkdir()
    (logs / "new.log").write_text("Error in rule sample:\n    jobid: 3\nError in rule check:\n")
    text = report(tmp_path / "results")
    assert line(text, "sample") == ["sample", "2", "5400.0", "2.0", "3600.0", "5.0", "1.500", "1"]
    assert line(text, "train") == ["train", "1", "10.0", "1.0", "10.0", "0.0", "0.006", "0"]
    assert line(text, "check")[-1] == "1"
    assert "on 2 machine(s) of a cluster" in text and "1.506 GPU-hours" in text


def test_a_run_of_one_machine(tmp_path):
    finish(tmp_path, "plan", "a", 1000.0, 10.0)
    assert "s on" in report(tmp_path / "results") and "core-seconds" in report(tmp_path / "results")
    with pytest.raises(UserError, match="no logs of finished jobs"):
        report(tmp_path / "elsewhere")
