"""Two processes with half the batch each train the router that one process trains."""

import os
import subprocess
import sys

import numpy as np
import pytest

from harmonica.cli import main
from harmonica.plan import Router

MODULE = ("-m", "harmonica")
STOPPED = """
import os, sys
from harmonica.cli import main
from harmonica.training import checkpoint, loop

loop.SAVE_EVERY_S, loop.STALL, save = 0.0, float("inf"), checkpoint.save

def stopping(plan_file, identity, state, caches):
    save(plan_file, identity, state, caches)
    if state["round"] == 3:
        os._exit(9)

checkpoint.save = stopping
sys.exit(main(sys.argv[1:]))
"""


def arguments(method, out, rounds=3):
    settings = [x for k in ("beta=1e-4", f"rounds={rounds}", "batch=4", "refresh=4") for x in ("--set", k)]
    return ["plan", method, "--steps", "5", *settings, "-o", str(out)]


def torchrun(processes, script, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0",
               "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *script, *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["harmonica", "learning_to_cache"])
def test_two_processes_train_the_same_router(tmp_path, method):
    """Under torchrun, or started by the command itself, whose cost is that of both."""
    assert main(arguments(method, tmp_path / "one.safetensors")) == 0
    command = arguments(method, tmp_path / "two.safetensors")
    if method == "harmonica":
        done = torchrun(2, MODULE, *command)
    else:
        command = [sys.executable, *MODULE, *command, "--processes", "2"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stdout.count("training_s") == 1, done.stderr
    one, two = (Router.load(tmp_path / f"{n}.router.safetensors") for n in ("one", "two"))
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-4)  # sums of other parts round otherwise
    assert two.origin.hardware["processes"] == "2" and two.origin.cost["training_s"] > 0


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(tmp_path):
    args = [x.replace("batch=4", "batch=3") for x in arguments("harmonica", tmp_path / "p.safetensors")]
    done = torchrun(2, MODULE, *args)
    assert done.returncode != 0 and "a batch of 3 cannot be shared by 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 2), pytest.param(1, 2, marks=pytest.mark.extended)])
def test_a_training_resumes_with_any_number_of_processes(tmp_path, before, after):
    """The stale cache, which is 0.67 % of a round's first step, is each image's own again."""
    out, script = tmp_path / "resumed.safetensors", tmp_path / "stopped.py"
    script.write_text(STOPPED)
    assert main(arguments("harmonica", tmp_path / "one.safetensors", rounds=6)) == 0
    done = torchrun(before, [str(script)], *arguments("harmonica", out, rounds=6))
    pieces = sorted(p.name.rsplit(".", 2)[1] for p in tmp_path.glob(".resumed-*.round3.*.checkpoint"))
    assert done.returncode != 0 and not out.exists()
    assert len(pieces) == before and pieces[0] == f"0-{4 // before}"
    done = torchrun(after, MODULE, *arguments("harmonica", out, rounds=6))
    assert done.returncode == 0 and "from scratch" not in done.stderr, done.stderr
    one, resumed = (Router.load(tmp_path / f"{n}.router.safetensors") for n in ("one", "resumed"))
    np.testing.assert_allclose(one.logits, resumed.logits, atol=1e-4)
    assert not list(tmp_path.glob(".*.checkpoint"))
