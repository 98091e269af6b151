"""Units of the published recipes, and what checkpoints cost."""

import time

import pytest

from harmonica.experiments import Experiment
from harmonica.models import get_model
from harmonica.training import checkpoint, learning_to_cache, loop
from harmonica.training.sdt import recipe_for
from harmonica.training.settings import routed_steps


@pytest.mark.parametrize(("steps", "rounds", "refresh"), [(10, 2000, 50), (20, 1000, 25), (50, 400, 10), (100, 200, 5)])
def test_released_numbers_are_updates_of_timesteps(steps, rounds, refresh):
    """20 000 updates, λ every 500: at T = 10 those are 2 000 trajectories and every 50."""
    recipe = recipe_for("paper", steps, get_model("dit-xl-2-256").layout)
    assert (recipe.rounds, recipe.refresh, recipe.batch, recipe.lr) == (rounds, refresh, 32, 0.01)


@pytest.mark.parametrize(
    ("model", "batch"),
    [("dit-xl-2-512", 32), ("uvit-h-2-256", 32), ("pixart-alpha-1024", 8), ("pixart-sigma-2k", 2)],
)
def test_long_sequences_have_smaller_batches(model, batch):
    assert recipe_for("paper", 20, get_model(model).layout).batch == batch


def test_learning_to_cache_makes_50_000_updates():
    for steps in (10, 20, 50):
        routed = len(routed_steps(steps))
        recipe = learning_to_cache.recipe_for("paper", routed)
        assert recipe.rounds * routed == pytest.approx(50_000, rel=0.01) and recipe.batch == 64
        assert recipe.refresh * routed == pytest.approx(500, rel=0.05)


def test_checkpoints_are_not_training(tmp_path, monkeypatch):
    """One that takes long comes seldom, and does not count."""
    saved = []

    def slow(plan_file, identity, state, caches):
        saved.append(state["round"])
        time.sleep(0.5)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    e = Experiment.of("pocket-dit", "ddim", 3, 1.5, "sdt_ltc", {"beta": 1e-4, "rounds": 12, "batch": 2})
    started = time.perf_counter()
    _, router = e.make(checkpoint=tmp_path / "p.safetensors")
    assert saved == [1, 12]  # half a second may be lost in 50 seconds; the last round is always kept
    assert router.origin.cost["training_s"] < time.perf_counter() - started - 0.9
