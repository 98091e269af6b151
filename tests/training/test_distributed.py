"""Two processes with half the batch each train the router that one process trains."""

import os
import subprocess
import sys

import numpy as np
import pytest

from harmonica.cli import main
from harmonica.plan import Router


def arguments(method, out):
    return [
        "plan",
        method,
        "--steps",
        "5",
        "--set",
        "beta=1e-4",
        "--set",
        "rounds=3",
        "--set",
        "batch=4",
        "-o",
        str(out),
    ]


def torchrun(tmp_path, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
               "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "harmonica", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["harmonica", "learning_to_cache"])
def test_two_processes_train_the_same_router(tmp_path, method):
    assert main(arguments(method, tmp_path / "one.safetensors")) == 0
    done = torchrun(tmp_path, *arguments(method, tmp_path / "two.safetensors"))
    assert done.returncode == 0, done.stderr
    one, two = (Router.load(tmp_path / f"{n}.router.safetensors") for n in ("one", "two"))
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)
    assert done.stdout.count("training_s") == 1


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(tmp_path):
    args = [x.replace("batch=4", "batch=3") for x in arguments("harmonica", tmp_path / "p.safetensors")]
    done = torchrun(tmp_path, *args)
    assert done.returncode != 0 and "a batch of 3 cannot be shared by 2 processes" in done.stderr
