"""The workflow on a cluster: Slurm's own daemons on this machine, with one node of four cores."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from project import Project

from harmonica.checks.timing import report
from harmonica.cli import main

pytestmark = pytest.mark.slow
CONF = Path("/etc/slurm/slurm.conf")  # where steps of jobs look, whatever SLURM_CONF says
SETTINGS = """
ClusterName=ci
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
ReturnToService=2
MinJobAge=3600
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=ci Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ALONE = ["--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2",
         "--seconds-between-status-checks", "2"]  # fmt: skip  # without accounting


@pytest.fixture
def slurm(tmp_path):
    """slurmctld and slurmd, until the test ends."""
    if not shutil.which("slurmctld") or not shutil.which("slurmd"):
        pytest.skip("Slurm is not installed: the workflow was not run on a cluster")
    if os.getuid() != 0 or CONF.exists():
        pytest.skip("another Slurm is configured here, or this user cannot: the workflow was not run on a cluster")
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    CONF.parent.mkdir(exist_ok=True)
    CONF.write_text(SETTINGS.format(folder=tmp_path))
    log = (tmp_path / "daemons.log").open("w")
    daemons = [
        subprocess.Popen(c, stdout=log, stderr=log) for c in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"])
    ]
    try:
        for _ in range(60):
            if "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
                break
            time.sleep(0.5)
        else:
            pytest.fail((tmp_path / "daemons.log").read_text())
        yield
    finally:
        subprocess.run(["scancel", "--full", "-u", "root"], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        CONF.unlink()


def kill(folder: Path, *words: str) -> bool:
    """Kill the process that runs in this folder and whose command line has all the words."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or ())
        if process.info["cwd"] == str(folder) and all(w in command for w in words):
            process.kill()
            return True
    return False


def test_a_table_on_a_cluster(slurm, tmp_path):
    """Shards run side by side, a killed one is made again, and the images are those of one process."""
    project = Project(tmp_path / "harmonica-bench")
    methods = ["full", {"fora": {"interval": 2}}]
    table = {"images": 24, "cases": {"4": {"model": "pocket-dit", "steps": 4}}, "methods": methods,
             "sampling": {"grouping": "all", "minutes": 1e-4, "chunk": 8, "batch": 8},
             "latency": {"batch": 2, "rounds": 1, "max_rounds": 1}}  # fmt: skip
    (project.folder / "own.json").write_text(
        json.dumps({"converged": {"images": 8, "steps": 8}, "tables": {"table1": table}})
    )
    command = [sys.executable, "-m", "snakemake", "results/table1.csv", "--workflow-profile", "workflow/profiles/slurm",
               "-j", "4", "--latency-wait", "10", *ALONE, "--configfile", "own.json"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(project.folder), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "snakemake.log").open("w") as log:
        run = subprocess.Popen(command, cwd=project.folder, env=env, stdout=log, stderr=log)
        killed, most = False, 0
        while run.poll() is None:
            killed = killed or kill(project.folder, "bin/harmonica sample", "all/shard1.json")
            running = subprocess.run(["squeue", "-h", "-t", "R"], capture_output=True, text=True).stdout
            most = max(most, len(running.splitlines()))
            time.sleep(0.3)
    out = (tmp_path / "snakemake.log").read_text()
    logs = project.folder / "results" / "pocket" / "logs"
    assert run.returncode == 0 and killed and "Trying to restart job" in out, out
    assert len(project.table()) == 2
    assert most >= 2
    lines = [(logs / "sample" / f"table1_all_{k}.log").read_text().rpartition("time: ")[2] for k in (0, 1, 2)]
    assert len({json.loads(x)["run"] for x in lines}) == 1 and all(json.loads(x)["scheduled"] for x in lines)
    timing = report(project.folder / "results")
    assert "1 machine(s) of a cluster" in timing and re.search(r"^sample +4 .* 1$", timing, re.M), timing
    plan = next((project.folder / "results" / "pocket" / "plans").rglob("*_fora-interval2.safetensors"))
    alone = tmp_path / "alone"
    assert main(["sample", str(plan), "--images", "24", "--chunk", "8", "--batch", "8", "-o", str(alone)]) == 0
    (folder,) = (project.folder / "results" / "pocket" / "samples" / "images").glob("*fora*")
    assert [p.read_bytes() for p in sorted(folder.glob("*.npz"))] == [
        p.read_bytes() for p in sorted(alone.rglob("*.npz"))
    ]
