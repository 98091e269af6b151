"""Jobs side by side take different GPUs. A script in place of nvidia-smi lists them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harmonica.utils import UserError, gpus

JOB = """
import os, sys, time
from harmonica.utils import gpus
gpus.take_requested()
print(os.environ[gpus.VISIBLE], flush=True)
time.sleep(60)
"""


@pytest.fixture
def three(tmp_path, monkeypatch):
    """A machine with three GPUs, and a folder of its own for locks."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


@pytest.fixture
def job():
    """Starts a job that keeps its GPUs; `visible` reads them."""
    started = []

    def start(count: int) -> subprocess.Popen:
        env = os.environ | {gpus.REQUESTED: str(count)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", JOB], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def visible(process: subprocess.Popen) -> list[str]:
    return process.stdout.readline().strip().split(",")


def test_jobs_side_by_side_have_different_gpus(three, job):
    assert sorted(x for j in [job(1) for _ in range(3)] for x in visible(j)) == ["GPU-a", "GPU-b", "GPU-c"]


def test_a_job_waits_until_another_is_killed(three, job):
    pair, one = job(2), job(1)
    held = set(visible(pair))
    assert held | set(visible(one)) == {"GPU-a", "GPU-b", "GPU-c"}
    waits = job(2)
    assert waits.stderr.readline() == "waiting for 2 of 3 GPUs\n"
    time.sleep(0.3)
    assert waits.poll() is None
    pair.send_signal(signal.SIGKILL)
    assert set(visible(waits)) == held


def test_what_a_scheduler_has_assigned(three, monkeypatch):
    assert gpus.found() == ["GPU-a", "GPU-b", "GPU-c"]
    monkeypatch.setenv(gpus.VISIBLE, "2,0")
    assert gpus.found() == ["GPU-c", "GPU-a"]
    monkeypatch.setenv(gpus.VISIBLE, "MIG-1")
    assert gpus.found() == ["MIG-1"]
    monkeypatch.setenv(gpus.VISIBLE, "")
    assert gpus.found() == []


def test_more_than_there_are(three, monkeypatch):
    monkeypatch.setenv(gpus.REQUESTED, "4")
    with pytest.raises(UserError, match="needs 4 GPUs and this machine has 3"):
        gpus.take_requested()
    monkeypatch.setenv(gpus.REQUESTED, "all")
    with pytest.raises(UserError, match="must be a number of GPUs, got 'all'"):
        gpus.take_requested()


def test_a_machine_without_a_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(gpus.REQUESTED, "1")
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    gpus.take_requested()
    assert gpus.VISIBLE not in os.environ and gpus.found() == []
