"""What resumes is what was requested; a damaged checkpoint starts anew."""

import pytest

from harmonica.experiments import Experiment
from harmonica.training import checkpoint, loop

GIVEN = {"beta": 1e-4, "rounds": 6, "batch": 2}


def made(folder, **settings):
    e = Experiment.of("pocket-dit", "ddim", 4, 1.5, "sdt_ltc", GIVEN | settings)
    return e.make(checkpoint=folder / "p.safetensors")[1]


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A training of six rounds, killed after its third, whose checkpoint is there."""
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "STALL", 1e9)
    real, calls = checkpoint.save, []

    def dies(*args):
        real(*args)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path)
    monkeypatch.setattr(checkpoint, "save", real)
    return tmp_path


def state(folder):
    return next(p for p in folder.glob(".p-*.checkpoint") if ".round" not in p.name)


def test_it_resumes(interrupted, tmp_path_factory):
    straight = made(tmp_path_factory.mktemp("straight"))
    resumed = made(interrupted)
    assert resumed.origin.cost["rounds"] == 6
    assert abs(resumed.logits - straight.logits).max() < 1e-5


@pytest.mark.parametrize("changed", [{"rounds": 2}, {"lr": 0.1}, {"refresh": 3}])
def test_another_training_does_not_resume_from_it(interrupted, changed, tmp_path_factory):
    """With fewer rounds it had done more than were requested, and the settings said otherwise."""
    straight = made(tmp_path_factory.mktemp("straight"), **changed)
    own = made(interrupted, **changed)
    assert own.origin.cost["rounds"] == straight.origin.cost["rounds"] and (own.logits == straight.logits).all()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:40] + b"x" * 40 + b[80:]])
def test_a_damaged_checkpoint_starts_anew(interrupted, damage, capsys):
    path = state(interrupted)
    path.write_bytes(damage(path.read_bytes()))
    assert made(interrupted).origin.cost["rounds"] == 6
    assert "starting from scratch" in capsys.readouterr().err


def test_an_empty_state_starts_anew(interrupted, capsys):
    from harmonica.utils.torch_files import save_torch

    save_torch(state(interrupted), {})
    assert made(interrupted).origin.cost["rounds"] == 6
    assert "is incomplete: starting from scratch" in capsys.readouterr().err


def test_only_its_own_checkpoints_are_removed(tmp_path):
    """Those of a plan whose name begins with its own may be of a training that runs."""
    own, id_ = tmp_path / "a[1]_harmonica-target_cur22.safetensors", "0123456789ab"
    mine = [f".{own.stem}-{id_}{part}.checkpoint" for part in ("", ".round3.0-4")]
    others = [f".{own.stem}-threshold0.3-{id_}.checkpoint", f".{own.stem}-rounds50-{id_}.round3.0-4.checkpoint"]
    for name in (*mine, *others):
        (tmp_path / name).touch()
    checkpoint.remove(own)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
