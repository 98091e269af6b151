"""What a run will cost: the counting is exact where the machine's speed is given."""

from pathlib import Path

import pytest
import yaml

from harmonica.checks import estimate
from harmonica.cli import main
from harmonica.experiments import config
from harmonica.methods import registry
from harmonica.training import iepo
from harmonica.training.settings import LearnedSettings
from harmonica.utils.errors import UserError

ABOUT = {
    "scale": "pocket", "images": 40, "seed": 0, "sampler": "ddim", "cfg": 1.5,
    "cases": {"10": {"model": "pocket-dit", "steps": 10}},
    "sampling": {"grouping": "all", "shards": 2, "chunk": 20, "batch": 10}, "latency": {"batch": 8, "rounds": 3},
}  # fmt: skip


START_UP = dict.fromkeys(("plan", "sample", "metrics", "latency", "table"), 0.0)


class Steady(estimate.Machine):
    """A machine that needs a second an evaluation, three an update, and no time else."""

    def timed(self, once):
        raise AssertionError("nothing is to be measured")

    evaluation = lambda self, batch, cfg, threads=0: 1.0  # noqa: E731
    update = lambda self, batch, cfg: 3.0  # noqa: E731
    decoding = lambda self, batch: 0.0  # noqa: E731
    features = lambda self: 0.0  # noqa: E731
    distances = lambda self, images: 0.0  # noqa: E731


def estimated(monkeypatch, *methods_, **more):
    monkeypatch.setattr(estimate, "Machine", Steady)
    return estimate.estimate({"t": ABOUT | {"methods": ["full", *methods_]} | more}, "pocket", START_UP)


def test_sampling_counts_macs(monkeypatch):
    """40 images of 10 steps, then of 7: evaluations in seconds; both groups of halves are in one evaluation's time."""
    rules = estimated(monkeypatch, {"fewer_steps": {"steps": 7}})
    assert rules["sample"].seconds == pytest.approx(40 * 17, rel=1e-9) and rules["sample"].jobs == 2
    assert rules["latency"].seconds == pytest.approx(4 * 8 * 17)
    assert rules["sample"].disk == 2 * 40 * 32 * 32


def test_training_counts_trajectories(monkeypatch):
    """61 trajectories of two images, each an evaluation and nine updates, and four measurements of λ."""
    rules = estimated(monkeypatch, {"harmonica": {"target_cur": 20}}, images=8)
    lam = 4 * iepo.passes("official", 10) * 10
    trained = estimate.SEARCH * 2 * (61 * (1 + 9 * 3) + lam)
    assert rules["plan"].seconds == pytest.approx(trained + 1.5, rel=1e-6)


@pytest.mark.parametrize("scale", ["pocket", "paper"])
def test_every_shipped_row_can_be_counted(monkeypatch, scale):
    path = Path(__file__).parent.parent.parent / "workflow" / "config" / f"{scale}.yaml"
    for about in config.tables(yaml.safe_load(path.read_text()), {"scale": scale}).values():
        table = config.rows(about)
        for r in table:
            e = r.experiment
            if isinstance(e.method, LearnedSettings):
                assert e.method.work(e.protocol, scale).updates > 0
            steps, share = estimate._share(r, table)
            assert steps > 0 and 0 < share <= 1


def test_a_table_that_is_not_there(capsys):
    assert main(["estimate", "results/table7.csv"]) == 2
    assert "unknown table 'table7'" in capsys.readouterr().err


SILENT = """
from dataclasses import dataclass
from harmonica.methods import LearnedMethod

@dataclass(frozen=True, kw_only=True)
class Silent(LearnedMethod):
    title = "Silent"

    def make(self, task):
        ...
"""


def test_a_method_that_does_not_say_how_much_it_trains(tmp_path, monkeypatch):
    """A learned method without `work` cannot be instantiated, and is refused by name."""
    (tmp_path / "silent.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    known = registry.known_methods() | {"silent": "silent"}
    monkeypatch.setattr(registry, "known_methods", lambda: known)
    with pytest.raises(UserError, match="silent.py must define one Method with `title` and `make`"):
        estimated(monkeypatch, {"silent": {"target_cur": 20}})
    from silent import Silent

    with pytest.raises(TypeError, match="abstract method '?work"):
        Silent(target_cur=20)


def test_a_cpu_tries_batches_of_seconds(monkeypatch):
    """DiT-XL/2 at 256 takes 118.6 GMACs an image, and twice that under guidance; a small model is tried as it is."""
    from harmonica.models import get_model

    machine = estimate.Machine.__new__(estimate.Machine)
    machine.memory, calls = 0.0, []
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    for name, cfg, tried in (("dit-xl-2-256", 1.0, 4), ("dit-xl-2-256", 1.5, 2), ("dit-xl-2-512", 1.5, 1)):
        machine.backbone = get_model(name)  # it has the layout, which is all that is asked for
        assert machine.tried(50, cfg) == tried
    machine.backbone = get_model("pocket-dit")
    assert machine.tried(50, 1.5) == 50
    machine.timed(lambda: calls.append(1))
    assert len(calls) == 1 + estimate.REPEATS
    monkeypatch.setattr(estimate, "LONG_S", 0.0)
    assert machine.timed(lambda: calls.append(1)) > 0 and len(calls) == 2 + estimate.REPEATS
