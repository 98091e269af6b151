"""What a run will cost: the counting is exact where the machine's speed is given."""

import time
from pathlib import Path

import pytest
import yaml

from harmonica.checks import estimate, measured, published
from harmonica.checks.estimate import Estimate, Job, critical_path, makespan, simulate
from harmonica.cli import main
from harmonica.experiments import config
from harmonica.methods import registry
from harmonica.models import get_model
from harmonica.training import iepo
from harmonica.training.settings import LearnedSettings
from harmonica.utils.errors import UserError

ROOT = Path(__file__).parent.parent.parent
ABOUT = {
    "scale": "pocket", "images": 40, "seed": 0, "seeds": [0], "sampler": "ddim", "cfg": 1.5,
    "cases": {"10": {"model": "pocket-dit", "steps": 10}},
    "precision": dict.fromkeys(("training", "sampling", "latency"), "float32"),
    "sampling": {"grouping": "all", "minutes": 0.01, "chunk": 20, "batch": 10},
    "latency": {"batch": 8, "rounds": 2, "max_rounds": 3},
}  # fmt: skip


class Steady:
    """A machine that needs a second per evaluation, three per update, and no time else."""

    def __init__(self, model):
        self.model = model

    evaluation = lambda self, batch, cfg, precision="float32", threads=0: 1.0  # noqa: E731
    update = lambda self, batch, cfg, precision="float32": 3.0  # noqa: E731
    decoding = lambda self, batch: 0.0  # noqa: E731
    encoding = lambda self: 0.0  # noqa: E731
    features = lambda self, batch=0: 0.0  # noqa: E731
    distances = lambda self, images: 0.0  # noqa: E731


def seconds(*methods_, **more) -> dict[str, float]:
    """Seconds of every rule."""
    jobs = Estimate({"t": ABOUT | {"methods": ["full", *methods_]} | more}, Steady, 0.0).jobs()
    return {rule: sum(j.seconds for j in jobs if j.rule == rule) for rule in {j.rule for j in jobs}}


def test_sampling_counts_macs():
    """40 images of 10 steps, then of 7: evaluations in seconds; both groups of halves are in one evaluation's time."""
    about = ABOUT | {"methods": ["full", {"fewer_steps": {"steps": 7}}]}
    jobs = Estimate({"t": about}, Steady, 0.0).jobs()
    sampled = [j for j in jobs if j.rule == "sample"]
    assert len(sampled) == 2 and sum(j.seconds for j in sampled) == pytest.approx(40 * 17, rel=1e-9)
    assert sum(j.disk for j in sampled) == 2 * 40 * 32 * 32
    assert next(j for j in jobs if j.rule == "latency").seconds == pytest.approx(4 * 8 * 17)


def test_the_converged_solution_is_counted():
    """Once per protocol, on its own number of images."""
    about = ABOUT | {"methods": ["full"], "converged": {"sampler": "dpmsolver++", "steps": 30, "images": 8}}
    about |= {"cases": {k: {"model": "pocket-dit", "steps": 10} for k in ("a", "b")}}
    jobs = Estimate({"t": about}, Steady, 0.0).jobs()
    assert [j.seconds for j in jobs if j.rule == "sample"] == pytest.approx([8 * 30, 200, 200])


def test_training_counts_trajectories():
    """31 trajectories of eight images, each an evaluation and nine updates, and one measurement of λ."""
    lam = iepo.passes("official", 10) * 10
    trained = estimate.SEARCH * 8 * (31 * (1 + 9 * 3) + lam)
    assert seconds({"harmonica": {"target_cur": 20}}, images=8)["train"] == pytest.approx(trained, rel=1e-6)


@pytest.mark.parametrize("scale", ["pocket", "paper"])
def test_every_shipped_row_can_be_counted(scale):
    path = ROOT / "workflow" / "config" / f"{scale}.yaml"
    for about in config.tables(yaml.safe_load(path.read_text()), {"scale": scale}).values():
        table = config.rows(about)
        for r in table:
            e = r.experiment
            if isinstance(e.method, LearnedSettings):
                assert e.method.work(e.protocol, scale).updates > 0
            assert 0 < estimate._evaluations(r, table) <= r.experiment.protocol.steps


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
        seconds({"silent": {"target_cur": 20}})
    from silent import Silent

    with pytest.raises(TypeError, match="abstract method '?work"):
        Silent(target_cur=20)


def test_a_cpu_tries_batches_of_seconds(monkeypatch):
    """DiT-XL/2 at 256 takes 118.6 GMACs per image, and twice that under guidance; a small model is tried as it is."""
    machine = measured.Machine.__new__(measured.Machine)
    calls = []
    for name, cfg, tried in (("dit-xl-2-256", 1.0, 4), ("dit-xl-2-256", 1.5, 2), ("dit-xl-2-512", 1.5, 1)):
        machine.model = get_model(name)
        assert machine.tried(50, cfg) == tried
    machine.model = get_model("pocket-dit")
    assert machine.tried(50, 1.5) == 50
    machine.timed(lambda: calls.append(1))
    assert len(calls) == 1 + measured.REPEATS
    monkeypatch.setattr(measured, "LONG_S", 0.0)
    assert machine.timed(lambda: calls.append(1)) > 0 and len(calls) == 2 + measured.REPEATS


def total(capsys, *arguments) -> tuple[float, float, float, float]:
    """GPU-hours, hours, GiB and GB of an estimate's last line."""
    started = time.perf_counter()
    assert main(["estimate", *arguments]) == 0
    assert time.perf_counter() - started < 60
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert words[0] == "total:" and words[2] == "GPU-hours"
    return float(words[1]), float(words[5].strip("(")), float(words[10]), float(words[13])


def test_table_1_takes_a_day_on_four_gpus(capsys):
    """What the paper scale is designed for."""
    hours, wall, memory, _ = total(capsys, "results/table1.csv", "--scale", "paper", "--device", "h100", "--gpus", "4")
    assert hours <= 100 and wall <= 24 and memory <= 72


def test_images_of_table_2_fit_on_a_disk(capsys):
    assert total(capsys, "table2", "--scale", "paper", "--device", "h100")[3] <= 400


def test_other_devices_and_smaller_cards(capsys, tmp_path):
    h100 = total(capsys, "table3", "--scale", "paper")
    own = tmp_path / "small.yaml"
    own.write_text("gpu_memory: 22\nimages: 5000\n")
    small = total(capsys, "table3", "--scale", "paper", "--device", "rtx4090", "--configfile", str(own))
    assert small[2] <= 22 < h100[2] and small[0] > 0.2 * h100[0] and small[3] < h100[3]
    assert total(capsys, "table3", "--scale", "paper", "--config", '{"images": 5000}')[3] == small[3]


def test_a_device_that_is_not_known(capsys):
    assert main(["estimate", "table1", "--scale", "paper", "--device", "h1000"]) == 2
    assert "unknown device 'h1000'; did you mean 'h100'?" in capsys.readouterr().err


def test_the_scale_is_that_of_the_configuration(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text("scale: paper\n")
    assert main(["estimate", "table6", "--configfile", str(tmp_path / "own.yaml")]) == 0
    assert "GPU-hours" in capsys.readouterr().out


def test_a_configuration_that_is_wrong(capsys, tmp_path):
    assert main(["estimate", "table1", "--scale", "paper", "--config", '{"imges": 5}']) == 2
    assert "did you mean 'images'?" in capsys.readouterr().err
    assert main(["estimate", "table1", "--configfile", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml is not a configuration in YAML" in capsys.readouterr().err


def test_published_speeds():
    """A guided image of DiT-XL/2 takes 0.474 TFLOP at 256²; attention is the only product that does not take TF32."""
    speed = published.Published(get_model("dit-xl-2-256"), published.get_gpu("h100"))
    assert 1e3 * speed.evaluation(50, 1.5, "float16") == pytest.approx(0.474 / (989 * 0.45) * 1e3, rel=0.01)
    assert speed.evaluation(50, 1.0, "float16") == pytest.approx(speed.evaluation(50, 1.5, "float16") / 2)
    assert speed.evaluation(50, 1.5, "float32") > 4 * speed.evaluation(50, 1.5, "tf32")


def test_makespan_by_hand():
    """Three hours of work after one: 2.5 hours on two slots, since the last waits for the longest."""
    first = Job("a", 1.0)
    second, third = Job("b", 1.0, after=[first]), Job("b", 1.5, after=[first])
    alone = Job("c", 0.5, after=[third], slots=0)
    jobs = [first, second, third]
    assert makespan(jobs, 1) == 3.5 and makespan(jobs, 2) == 2.5 and makespan([*jobs, alone], 2) == 3.0
    with pytest.raises(UserError, match="at least one GPU"):
        makespan(jobs, 0)


def test_a_training_on_several_gpus_waits_for_one_machine():
    """Four GPUs of two machines of two: a job of two GPUs starts when a machine is free, and others keep off it."""
    pair = Job("train", 10.0, slots=2)
    long, short = [Job("a", 4.0) for _ in range(3)], [Job("b", 3.0) for _ in range(4)]
    gate = Job("c", 1.0)
    pair.after = [gate]
    found = simulate([gate, pair, *long, *short], 4, 2)
    assert found.begun[pair] == 4.0 and found.makespan == 14.0
    assert found.efficiency == pytest.approx((1 + 20 + 12 + 12) / (4 * 14))
    assert simulate([pair], 1).makespan == 20.0  # slower on one GPU
    assert critical_path([gate, pair, *long]) == [gate, pair]


def test_a_training_shared_by_gpus():
    """By its cost, as far as its batch can be divided."""
    alone = Estimate({"t": ABOUT | {"methods": ["full", {"harmonica": {"target_cur": 20}}]}}, Steady, 0.0).jobs()
    for gpus, taken in ((4, 4), (6, 4), (16, 8)):
        about = ABOUT | {
            "methods": ["full", {"harmonica": {"target_cur": 20}}],
            "training": {"hours": 0.1, "gpus": gpus},
        }
        (job,) = (j for j in Estimate({"t": about}, Steady, 0.0).jobs() if j.rule == "train")
        assert job.slots == taken and job.seconds * taken == pytest.approx(
            next(j for j in alone if j.rule == "train").seconds
        )


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_a_run_keeps_many_gpus_busy(table):
    """On eight GPUs, and on 32 of four machines."""
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "paper.yaml").read_text())
    about = config.tables(shipped, {"scale": "paper"})[table]
    jobs = Estimate({table: about}, published.reference).jobs()
    assert simulate(jobs, 8, 8).efficiency >= 0.9 and simulate(jobs, 32, 8).efficiency >= 0.8
    sampled = [j for j in jobs if j.rule == "sample" and "converged" not in j.name]
    assert max(j.seconds for j in sampled) <= 1.5 * 60 * about["sampling"]["minutes"]
    assert sum(estimate.START_UP_S for j in sampled) <= 0.05 * sum(j.seconds for j in sampled)
