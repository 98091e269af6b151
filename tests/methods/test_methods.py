"""One contract for every method that is found, run on the pocket model."""

import dataclasses
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonica.cli import main
from harmonica.experiments import Experiment
from harmonica.methods import LearnedMethod, Reads, get_method, known_methods
from harmonica.models import MODELS, get_model
from harmonica.plan import COMPUTE, Plan, Protocol, Router, macs
from harmonica.training import loop
from harmonica.training.beta_search import BetaSearch
from harmonica.training.checkpoint import remove
from harmonica.training.settings import LearnedSettings
from harmonica.utils.errors import UserError
from harmonica.utils.settings import described, parse

STEPS = 6


SEARCH = {"images": 2, "evaluations": 4}
SMALL = {"step_search": SEARCH, "harmonica_forecast": SEARCH | {"fit_images": 2, "candidates": 2, "rounds": 2},
         "ecad": {"images": 2, "population": 4, "generations": 2}}  # fmt: skip


def experiment(name: str, **settings) -> Experiment:
    kinds = get_method(name).kinds or ("dit",)
    about = MODELS[f"pocket-{kinds[0]}"]
    if issubclass(get_method(name), LearnedMethod):
        settings = {"beta": 1e-4, "rounds": 2, "batch": 2} | settings
    settings = SMALL.get(name, {}) | settings
    return Experiment.of(about.name, about.sampler, STEPS, about.cfg, name, settings)


def make(name: str, **settings):
    e = experiment(name, **settings)
    required = get_method(name).requires
    return e.make({required: make("fora")[0].with_origin(method=required)} if required else {})


def needs_downloads(name: str) -> bool:
    """Whether a method reads files that are not shipped; one whose files are for other models refuses the pocket's."""
    e = experiment(name)
    try:
        return bool(e.reads.files)
    except UserError:
        return True


@pytest.mark.parametrize("name", [n for n in sorted(known_methods()) if not needs_downloads(n)])
def test_contract(name, tmp_path, monkeypatch):
    cls, e = get_method(name), experiment(name)
    learned = issubclass(cls, LearnedMethod)
    assert sys.modules[cls.__module__].__doc__ and cls.title and e.method.label()
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert all(f.meaning for f in described(cls))
    assert e.reads.weights or not learned
    if not e.reads.weights:
        monkeypatch.setattr("harmonica.models.loading.load_backbone", None)  # what it does not declare it does not load
    if not e.reads.images:
        monkeypatch.setattr("harmonica.models.training_images.training_latents", None)
    plan, router = make(name)
    again, _ = make(name)
    assert ("training_s" in plan.origin.cost) == e.reads.weights
    assert (plan.actions == again.actions).all()
    p, o = plan.protocol, plan.origin
    assert plan.branches == len(e.model.layout.branches) and plan.steps <= STEPS
    assert (plan.actions[0] == COMPUTE).all()
    sampler = p.sampler if cls.plain else e.protocol.sampler  # a rival of caching may be another solver
    assert (p.model, p.sampler, p.cfg, p.steps) == (e.protocol.model, sampler, e.protocol.cfg, plan.steps)
    assert not cls.plain or (plan.actions == COMPUTE).all()
    assert o.method == name and parse(cls, name, o.settings) == e.method
    plan.save(tmp_path / "p.safetensors")
    reread = Plan.load(tmp_path / "p.safetensors")
    assert reread.protocol == p and reread.origin == o
    if learned:
        assert o.cost["training_s"] > 0 and o.cost["updates"] > 0 and o.notes["beta"] == 1e-4
        assert (o.cost["images"] > 0) == e.reads.images
        router.save(tmp_path / "r.safetensors")
        reread = Router.load(tmp_path / "r.safetensors")
        assert (reread.plan(o.notes["threshold"]).actions == plan.actions).all()
    else:
        assert router is None


def test_what_a_method_reads():
    """Weights to train with; Learning-to-Cache also images; a released router its file, where there is one."""
    for name in ("harmonica", "sdt_ltc", "direct"):
        assert experiment(name).reads == Reads(weights=True)
    assert experiment("learning_to_cache").reads == Reads(weights=True, images=True)
    assert experiment("fora").reads == Reads()
    released = get_method("released_ltc")()
    for model, sampler, file in (
        ("dit-xl-2-256", "ddim", "DDIM20_router.pt"),
        ("uvit-h-2-256", "dpm-solver", "dpm20_router.pth"),
    ):
        assert released.reads(Protocol(model, sampler, 20, 1.5)) == Reads(files=(file,))
        with pytest.raises(UserError, match="released for 20 and 50 steps, not for 10"):
            released.reads(Protocol(model, sampler, 10, 1.5))
    with pytest.raises(UserError, match="not for pocket-dit"):
        released.reads(Protocol("pocket-dit", "ddim", 20, 1.5))


def test_the_command_line_lists_every_setting(capsys):
    """Each with its name, type, default and meaning, below its method."""
    assert main(["methods"]) == 0
    blocks: dict[str, list[str]] = {}
    methods, *_ = re.split(r"^\S+ \(compression\)", capsys.readouterr().out, flags=re.M)
    for line in methods.splitlines():
        if not line.startswith(" ") and line.split(":")[0] in known_methods():
            own = blocks.setdefault(line.split(":")[0], [])
        elif line.startswith("    "):
            own.append(line[4:])
    assert sorted(blocks) == sorted(known_methods())
    for method, lines in blocks.items():
        fields = dataclasses.fields(get_method(method))
        assert len(lines) == len(fields)
        for line, f in zip(lines, fields, strict=True):
            meaning = f"  {f.metadata['meaning']}"
            assert line.endswith(meaning)
            about, default = line.removesuffix(meaning).split(" = ", 1)
            name, kind = about.split(": ", 1)
            assert name == f.name and kind
            assert default == (str(f.default) or '""') or (f.default is None and default == "by scale")
    assert "interval: int | None in [1, steps] = None  N; default: the interval closest to target_cur" in blocks["fora"]
    assert "target_cur: float in (0, 100] = 50.0  percent" in blocks["fora"]
    assert "compat: official | paper = official  follow the released code or the paper's text" in blocks["harmonica"]
    assert "lr: float | None in (0, ∞) = by scale  learning rate of AdamW, without weight decay" in blocks["harmonica"]
    assert "iepo: bool = False  weight the steps by λ, as HarmoniCa does" in blocks["learning_to_cache"]


def test_what_a_method_trains_on():
    assert make("harmonica")[0].origin.cost["images"] == 0
    assert make("sdt_ltc")[0].origin.cost["images"] == 0
    assert make("learning_to_cache")[0].origin.cost["images"] > 0


def test_learning_to_cache_routes_every_second_step():
    _, router = make("learning_to_cache", beta=10.0, rounds=30, lr=0.5)
    plan = router.plan(0.1)
    assert (plan.actions[::2] == COMPUTE).all() and plan.cur == 50


def test_paper_form_of_lambda():
    plan, _ = make("harmonica", compat="paper")
    assert plan.origin.notes["lambda"] == "paper"


def test_fora_computes_at_multiples_of_the_countdown():
    plan, _ = make("fora", interval=3)
    assert plan.actions[:, 0].tolist() == [0, 1, 0, 1, 1, 0]  # t = 5, 4, 3, 2, 1, 0


def test_random_plan_costs_what_its_source_costs():
    source, _ = make("fora")
    plan, _ = make("random_plan")
    layout = MODELS["pocket-dit"].layout
    assert macs(plan, layout) == macs(source, layout) and plan.cur == source.cur
    assert (plan.actions != source.actions).any() and (make("random_plan", draw=1)[0].actions != plan.actions).any()


@pytest.mark.parametrize("name", ["delta_dit", "deepcache", "fora"])
def test_heuristics_take_the_nearest_macs(name):
    layout = MODELS["pocket-dit"].layout
    low, high = (macs(make(name, target_cur=cur)[0], layout) for cur in (10, 60))
    assert high < low


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("forra", {}, "unknown method 'forra'; did you mean 'fora'"),
        ("fora", {"intervall": 2}, "did you mean 'interval'"),
        ("fora", {"interval": "two"}, "interval = 'two' is not int"),
        ("fora", {"interval": 0}, r"fora: interval must be in \[1, steps\], with steps = 6, got 0"),
        ("fora", {"interval": 1000}, r"interval must be in \[1, steps\], with steps = 6, got 1000"),
        ("fora", {"target_cur": 0}, r"target_cur must be in \(0, 100\], got 0"),
        ("fora", {"target_cur": float("inf")}, r"target_cur must be in \(0, 100\], got inf"),
        ("fewer_steps", {"steps": 7}, r"steps must be in \[1, steps\], with steps = 6, got 7"),
        ("delta_dit", {"blocks": 99}, r"blocks must be in \[1, blocks\], with blocks = 8, got 99"),
        ("delta_dit", {"boundary": -1}, r"boundary must be in \[0, steps\], with steps = 6, got -1"),
        ("deepcache", {"outer": 4}, r"outer must be in \[1, half the blocks\], with half the blocks = 3, got 4"),
        ("random_plan", {"draw": -1}, r"draw must be in \[0, ∞\), got -1"),
        ("released_ltc", {"threshold": 1}, r"threshold must be in \[0, 1\), got 1"),
        ("step_search", {"grid": 1001}, r"grid must be in \[1, 1000\], got 1001"),
        ("step_search", {"solver": "dim"}, "unknown sampler 'dim'; did you mean 'ddim'"),
        ("transfer", {"sampler": "dim"}, "unknown sampler 'dim'; did you mean 'ddim'"),
        ("faster_diffusion", {"prior_noise": 1}, r"prior_noise must be in \[0, 1\), got 1"),
        ("harmonica", {"compat": "papr"}, "did you mean 'paper'"),
        ("harmonica", {"beta": None, "target_cur": 90}, "cannot reach a CUR of 90 %"),
        ("learning_to_cache", {"beta": None, "target_cur": 51}, "cannot reach a CUR of 51 %"),
        ("harmonica", {"batch": 0}, r"batch must be in \[1, ∞\), got 0"),
        ("faster_diffusion", {"keys": "published"}, "for 50 steps, got 6"),
        ("deepcache", {"power": 0.5}, r"power must be in \[1, ∞\), got 0.5"),
    ],
)
def test_bad_settings(name, settings, says):
    """They are refused where a configuration is read, before any job."""
    with pytest.raises(UserError, match=says):
        experiment(name, **settings)


def test_fewer_steps_of_a_sampler_with_two_stages_are_even():
    """Whether they follow from a target or are given."""
    of = lambda **settings: Experiment.of("pocket-uvit", "dpm-solver", 20, 1.4, "fewer_steps", settings)  # noqa: E731
    assert [of(target_cur=cur).make()[0].steps for cur in (50, 67, 75, 99)] == [10, 8, 6, 2]
    with pytest.raises(UserError, match="steps must be even"):
        of(steps=7)


@pytest.mark.parametrize("name", ["fewer_steps", "better_solver"])
@pytest.mark.parametrize("model, cur", [("pocket-dit", 67.8), ("pocket-uvit", 86), ("pocket-pixart", 76.4)])
def test_fewer_steps_have_the_macs_of_a_cache(name, model, cur):
    """To half a step; a U-ViT pays .07 of its MACs at every step, whatever is reused."""
    layout = get_model(model).layout
    plan, _ = Experiment.of(model, "ddim", 20, 1.5, name, {"target_cur": cur}).make()
    cached = 20 * (layout.macs - cur / 100 * layout.branch_macs.sum())
    assert abs(macs(plan, layout) - cached) <= 0.55 * layout.macs


def test_every_number_has_a_range():
    for name in known_methods():
        numbers = [f for f in described(get_method(name)) if "int" in f.type or "float" in f.type]
        assert all(f.range for f in numbers), name


def test_a_method_for_another_kind_of_backbone():
    with pytest.raises(UserError, match="faster_diffusion is for uvit, and pocket-dit is a dit"):
        Experiment.of("pocket-dit", "ddim", STEPS, 1.5, "faster_diffusion", {})


def test_quadratic_schedule_of_deepcache():
    """unique(int(linspace(0, T^(1/p), n + 1)^p)): for T = 6, N = 2, p = 2 they are 0, 0.67, 2.67 and 6."""
    plan, _ = make("deepcache", schedule="quadratic", interval=2, outer=1)
    assert plan.actions[:, 4].tolist() == [0, 3, 0, 3, 3, 3]
    uniform, _ = make("deepcache", interval=2, outer=1)
    assert uniform.actions[:, 4].tolist() == [0, 3, 0, 3, 0, 3]


def test_keys_of_faster_diffusion():
    """At key steps everything runs, between them the out-blocks; the paper's list has 9 keys of 50."""
    e = Experiment.of("pocket-uvit", "dpm-solver", 50, 1.4, "faster_diffusion", {"keys": "published"})
    plan, _ = e.make()
    keys = [s for s in range(50) if not plan.actions[s].any()]
    assert keys == [0, 1, 2, 3, 5, 10, 15, 25, 35] and plan.protocol.prior_noise == 0.003
    first_out_block = plan.branches // 2 + 1
    assert (plan.actions[4, :first_out_block] != COMPUTE).all() and (plan.actions[4, first_out_block:] == COMPUTE).all()


def test_direct_optimisation_differentiates_the_whole_trajectory():
    """Its gradients are those of autograd through every step; SDT's reach one step's logits only."""
    plan, router = make("direct", beta=1e-9, rounds=1)
    assert plan.origin.cost["updates"] == STEPS - 1 and plan.origin.cost["generation_passes"] == 0
    assert (router.logits[1:] != router.logits[1]).any()


def test_a_missing_source():
    with pytest.raises(UserError, match="starts from the plan of harmonica"):
        experiment("random_plan").make()


def ended(cur, target=30.0, rounds=4):
    """A search that ended at this CUR."""
    search = BetaSearch("harmonica", LearnedSettings(target_cur=target), reachable=80, rounds=rounds)
    search.cur = cur
    return search


@pytest.mark.parametrize("cur, finished_at", [(30.4, 75), (27.0, 150)])
def test_a_search_costs_at_most_half_a_training_more(cur, finished_at):
    search = ended(cur, rounds=100)
    assert next(k + 1 for k in range(1000) if search.finished(k)) == finished_at


@given(st.integers(0, 2**32 - 1), st.floats(5, 60))
def test_the_threshold_makes_up_for_what_is_left(seed, target):
    """Of routers without two equal ratios, the plan at the closing threshold has the wanted CUR, to half a branch."""
    ratios = np.random.default_rng(seed).uniform(size=(10, 16))
    closed, cur = ended(target + 4, target).close(ratios, 0.1)
    assert cur == pytest.approx(100 * (ratios <= closed).mean())
    assert abs(cur - target) <= 50 / ratios.size + 1e-9
    assert ended(target + 0.2, target).close(ratios, 0.1) == (0.1, target + 0.2)


def test_logits_at_their_limit_are_not_separated():
    """The threshold goes to the side of them that is nearer to the target, if that is near enough."""

    def stuck(at_limit: int) -> np.ndarray:
        return np.where(np.arange(100) < at_limit, 0.0067, np.linspace(0.05, 0.99, 100))

    closed, cur = ended(37.0).close(stuck(33), 0.1)
    assert cur == 33 and (stuck(33) <= closed).sum() == 33
    assert ended(33.0).close(stuck(33), 0.1) == (0.1, 33)  # as near as any: the threshold rests
    with pytest.raises(UserError, match="ended at a CUR of 38.0 %"):
        ended(38.0).close(stuck(36), 0.1)


@pytest.mark.parametrize(
    "curs, at", [([50, 33, 36, 41, 47, 60], 2), ([50, 12, 36, 41, 33, 60], 4), ([30, 30, 8, 9, 10, 11], 5)]
)
def test_a_missed_target_leaves_the_closest_of_the_late_rounds(curs, at):
    """Of four rounds the third may be the last, and the sixth is."""
    search = BetaSearch("x", LearnedSettings(target_cur=30), reachable=90, rounds=4)

    class Rising:
        def __init__(self, k):
            self.k = k

        def cur(self, threshold, ahead):
            return curs[self.k], curs[self.k]

        def numpy(self):
            return np.full((2, 3), self.k, np.float32)

    for k in range(6):
        assert not search.finished(k - 1)
        search.update(k, Rising(k), 0.1)
    assert search.finished(5) and not search.met
    chosen = search.chosen(Rising(5).numpy())
    assert (chosen == at).all() and chosen.dtype == np.float32 and search.cur == curs[at]


def test_a_met_target_leaves_the_last_round():
    search = ended(30.0)
    search.closest = 30.1, [[1.0]]
    assert search.chosen(np.zeros((1, 1))).tolist() == [[0.0]] and search.cur == 30.0


def test_a_target_that_was_missed_is_an_error():
    with pytest.raises(UserError, match="ended at a CUR of 12.0 %, not 30 %"):
        ended(12.0).close(np.linspace(0, 1, 100), 0.1)
    with pytest.raises(UserError, match="ended at a CUR of 35.0 %"):
        ended(35.0).close(np.full(100, 0.0067), 0.1)


def test_a_router_off_its_target_is_kept_by_asking(tmp_path, capsys):
    """The training is not repeated: the finished one is taken as it is."""
    settings = {"beta": None, "target_cur": 30.0, "rounds": 2}
    with pytest.raises(UserError, match="keep the router as it is with off_target=true"):
        experiment("sdt_ltc", **settings).make(checkpoint=tmp_path / "p.safetensors")
    files = sorted(p.name for p in tmp_path.iterdir())
    plan, router = experiment("sdt_ltc", **settings, off_target=True).make(checkpoint=tmp_path / "p.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == files and router.origin.cost["rounds"] == 3
    assert plan.origin.settings["off_target"] and plan.origin.notes["threshold"] == 0.1 and plan.cur < 20
    said = capsys.readouterr().err
    assert "the search for a CUR of 30 % ended at" in said and f"the plan has {plan.cur:.1f} %" in said


def test_beta_follows_the_target():
    """On logits that answer β at once, the search finds the β of the wanted ratio."""
    limits = np.exp(np.random.default_rng(0).normal(size=400))  # a branch is reused where β is above its limit
    search = BetaSearch("x", LearnedSettings(target_cur=30), reachable=90, rounds=80)
    search.guess(limits * 3)  # a poor first guess

    class Answer:
        def cur(self, threshold, ahead):
            now = 100 * float((limits < search.beta).mean())
            return now, now

        def numpy(self):
            return limits

    for k in range(100):
        search.update(k, Answer(), 0.1)
        if search.finished(k):
            break
    assert search.cur == pytest.approx(30, abs=1)


def one_checkpoint(folder) -> bool:
    """The state of one round, and at most the cache of that round."""
    names = [p.name for p in folder.iterdir()]
    caches = [n for n in names if ".round" in n]
    return len(names) - len(caches) == 1 and len(caches) <= 1


@pytest.mark.parametrize("name", ["harmonica", "learning_to_cache"])
def test_a_stopped_training_resumes(name, tmp_path, monkeypatch):
    """Stopped in the middle and started again: the router is that of one run, bit for bit."""
    from harmonica.training.logits import Logits

    settings = {"beta": None, "target_cur": 30.0, "rounds": 8, "lr": 0.5}
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(BetaSearch, "close", lambda self, ratios, threshold: (threshold, self.cur))
    complete = experiment(name, **settings).make()[1]
    cur, seen = Logits.cur, []

    def stops(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return cur(self, *args, **kwargs)

    monkeypatch.setattr(Logits, "cur", stops)
    with pytest.raises(KeyboardInterrupt):
        experiment(name, **settings).make(checkpoint=tmp_path / "p.safetensors")
    assert one_checkpoint(tmp_path)
    monkeypatch.setattr(Logits, "cur", cur)
    again = experiment(name, **settings).make(checkpoint=tmp_path / "p.safetensors")[1]
    assert (again.logits == complete.logits).all()
    assert again.origin.notes["beta"] == complete.origin.notes["beta"]
    assert one_checkpoint(tmp_path)  # kept until the plan is written


def test_a_training_that_missed_its_target_starts_anew_with_more_rounds(tmp_path):
    """The search for β depends on the number of rounds: what resumes is what was requested."""
    settings = {"beta": None, "target_cur": 30.0}
    for count, rounds in enumerate((2, 4), 1):
        with pytest.raises(UserError, match="train for more rounds"):
            experiment("sdt_ltc", **settings, rounds=rounds).make(checkpoint=tmp_path / "p.safetensors")
        assert len([p for p in tmp_path.iterdir() if ".round" not in p.name]) == count
    remove(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_transferred_plan_takes_the_nearest_rows():
    """Ten DDIM steps under five: every second row, and to the same steps nothing changes."""
    few = Experiment.of("pocket-dit", "ddim", 5, 1.5, "transfer", {"steps": 10})
    source, _ = Experiment.of("pocket-dit", "ddim", 10, 1.5, "fora", {"interval": 3}).make()
    plan, _ = few.make({"harmonica": source})
    nearest = [0, 2, 4, 7, 9]  # of round(linspace(0, 999, 10)), noisiest first
    assert few.source == ("ddim", 10)
    assert (plan.actions[1:] == source.actions[nearest[1:]]).all() and not plan.actions[0].any()
    same, _ = Experiment.of("pocket-dit", "ddim", 10, 1.5, "transfer", {}).make({"harmonica": source})
    assert (same.actions == source.actions).all()
