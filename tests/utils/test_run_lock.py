"""Snakemake's locks go when the run that left them is dead, and only then."""

import subprocess
import sys

import pytest

HOLD = """import sys, time
from pathlib import Path
from harmonica.utils import run_lock
run_lock.begin(Path(sys.argv[1]), sys.argv[2] == "main")
print(flush=True)
time.sleep(float(sys.argv[3]))
"""


def begin(folder, role="main", seconds=0.0) -> subprocess.Popen:
    """A process that has begun a run, and holds its lock for some seconds."""
    command = [sys.executable, "-c", HOLD, str(folder), role, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.fixture
def left(tmp_path):
    """A run, alive, and the lock that it has taken."""
    folder = tmp_path / ".snakemake"
    alive = begin(folder, seconds=60)
    (folder / "locks").mkdir()
    (folder / "locks" / "0.output.lock").touch()
    yield folder, folder / "locks" / "0.output.lock", alive
    alive.kill()
    alive.wait()


def test_the_locks_of_a_live_run_stay(left):
    folder, lock, _ = left
    for seconds in (0, 0):  # also after another that has ended
        begin(folder, seconds=seconds).wait()
        assert lock.exists()


def test_those_of_a_killed_run_go(left):
    folder, lock, alive = left
    alive.kill()
    alive.wait()
    begin(folder, "a job").wait()  # a job of a run does not touch them
    assert lock.exists()
    begin(folder).wait()
    assert not lock.exists()


def test_those_of_another_machine_stay(left):
    """Its run may be alive where a file system does not share locks between machines."""
    folder, lock, alive = left
    alive.kill()
    alive.wait()
    (folder / "harmonica.lock").write_text("another")
    begin(folder).wait()
    assert lock.exists() and (folder / "harmonica.lock").read_text() == "another"
