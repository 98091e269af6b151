"""A batch divided into parts, with branches recomputed or the cache on the host, trains the router of the whole
batch."""

from functools import cache

import numpy as np
import pytest

from harmonica.experiments import Experiment
from harmonica.models import get_model
from harmonica.training.memory import Split
from harmonica.utils.errors import UserError

BATCH, STEPS = 4, 5
LAYOUT = get_model("pocket-dit").layout


def trained(method: str, memory: float | None, **more) -> np.ndarray:
    settings = {"beta": 1e-4, "rounds": 3, "batch": BATCH, "refresh": 2, "lr": 0.01, **more}  # the paper's lr
    e = Experiment.of("pocket-dit", "ddim", STEPS, 1.5, method, settings)
    return e.make(memory=memory)[1].logits


@cache
def whole(method: str) -> np.ndarray:
    return trained(method, None)


def memory_of(wanted: tuple[int, bool, bool], **job) -> float:
    """The smallest budget (bytes) that is divided as wanted: images per part, recomputed, cache on the host."""
    for memory in np.geomspace(1e7, 1e9, 4000):
        try:
            split = Split.of(LAYOUT, BATCH, memory, **job)
        except UserError:
            continue
        if (split.part, split.checkpointing, split.offload) == wanted:
            return float(memory)
    raise AssertionError(f"no budget is divided as {wanted}")


@pytest.mark.parametrize("wanted", [(2, False, False), (1, False, False), (1, True, False), (1, True, True)])
def test_step_wise_denoising_training(wanted):
    np.testing.assert_allclose(trained("harmonica", memory_of(wanted)), whole("harmonica"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wanted", [(2, False, False), (1, False, False), (1, True, False)])
def test_learning_to_cache(wanted):
    memory = memory_of(wanted, guided=False, keeps_cache=False)
    np.testing.assert_allclose(trained("learning_to_cache", memory), whole("learning_to_cache"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wanted", [(2, False, False), (1, True, False)])
def test_direct_optimisation(wanted):
    memory = memory_of(wanted, graph_steps=STEPS, keeps_cache=False)
    np.testing.assert_allclose(trained("direct", memory), whole("direct"), atol=1e-6, rtol=0)


def test_lambda_in_the_papers_form():
    own = trained("harmonica", memory_of((1, False, False)), compat="paper")
    np.testing.assert_allclose(own, trained("harmonica", None, compat="paper"), atol=1e-6, rtol=0)


def test_a_model_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="training pocket DiT with 4 images per round needs 0.0 GiB, more than the 0.0"):
        trained("harmonica", 1e6)


@pytest.mark.parametrize("forced", [False, True])
def test_checkpointing_can_be_forced(forced):
    assert Split.of(LAYOUT, BATCH, None, forced).checkpointing == forced
    assert Split.of(LAYOUT, BATCH, 1e9, forced).checkpointing == forced
