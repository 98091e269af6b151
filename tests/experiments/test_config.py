"""Configurations: what is shipped is right, what is wrong is told in one sentence."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from harmonica.experiments import config
from harmonica.utils.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def read_scale(name: str) -> dict:
    folder = ROOT / "workflow" / "config"
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


def schema() -> dict:
    return yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"imges": 5}, "unknown configuration key 'imges'; did you mean 'images'?"),
        ({"images": 0}, "images: 0 is less than the minimum of 8"),
        ({"methods": ["full", "forra"]}, "unknown method 'forra'; did you mean 'fora'?"),
        ({"methods": ["full", {"fora": {"intervall": 2}}]}, "did you mean 'interval'?"),
        ({"methods": ["fora"]}, "must begin with `full`"),
        ({"methods": ["full", "random_plan"]}, "add harmonica to the methods"),
        ({"methods": ["full", "harmonica", {"transfer": {"steps": 7}}]}, "harmonica for pocket-dit, ddim, 7: add"),
        ({"methods": ["full", "fora", "fora"]}, "two rows are the same experiment"),
        ({"methods": ["full", {"fora": {"interval": {"7": 2}}}]}, "given for 7, which is not a case"),
        ({"methods": ["full", {"fora": {"cases": ["11"]}}]}, "fora is requested for 11, which is not a case"),
        ({"cases": {"4": {"model": "pocket-dti", "steps": 4}}}, "did you mean 'pocket-dit'?"),
        ({"cases": {"4": {"model": "pocket-dit", "steps": 0}}}, "0 is less than the minimum of 1"),
        ({"sampler": "dim"}, "did you mean 'ddim'?"),
        ({"cfg": -1}, "cfg: -1 is less than the minimum of 1"),
        ({"cfg": float("nan")}, "cfg: nan is not a finite number"),
        ({"gpu_memory": float("inf")}, "gpu_memory: inf is not a finite number"),
        ({"sampling": {"chunk": 0}}, "sampling: chunk: 0 is less than the minimum of 1"),
        ({"latency": {"rounds": 7, "max_rounds": 3}}, "rounds must be in [1, max_rounds], with max_rounds = 3, got 7"),
        ({"seeds": [-1]}, "seeds: 0: -1 is less than the minimum of 0"),
        ({"methods": ["full", {"fora": {"interval": -1}}]}, "must be in [1, steps], with steps = 50, got -1"),
        ({"methods": ["full", {"fora": {"interval": {"10": 11}}}]}, "must be in [1, steps], with steps = 10, got 11"),
        ({"methods": ["full", {"learning_to_cache": {"target_cur": 60}}]}, "cannot reach a CUR of 60 %"),
    ],
)
def test_configurations_that_are_wrong(change, says):
    with pytest.raises(UserError, match=re.escape(says)):
        about = config.tables(read_scale("pocket"), {"scale": "pocket", "tables": {"table1": change}})["table1"]
        config.check(about, schema())
        config.rows(about)


def test_what_a_user_gives_goes_first():
    """For one table, for all, as shipped for one, as shipped for all."""
    shipped = {"seed": 1, "cfg": 1, "images": 10, "tables": {"a": {"cfg": 2, "images": 20, "cases": {5: {}}}}}
    given = {"images": 30, "tables": {"a": {"cfg": 3}}}
    assert config.tables(shipped, given) == {"a": {"seed": 1, "images": 30, "cfg": 3, "cases": {"5": {}}}}
    with pytest.raises(UserError, match="unknown table 'b'"):
        config.tables(shipped, {"tables": {"b": {}}})


def test_a_table_of_ones_own_is_like_another():
    """It starts from that one's keys, as the user changed them; its cases are all there are."""
    given = {
        "images": 24,
        "tables": {
            "mine-2": {"like": "mine", "cfg": 3},
            "mine": {"like": "table1", "sampling": {"chunk": 8},
                     "cases": {20: {}, "new": {"model": "pocket-dit", "steps": 5}}},
            "table1": {"seed": 7},
        },
    }  # fmt: skip
    found = config.of_scale("pocket", given)
    mine, table1 = found["mine"], found["table1"]
    assert "like" not in table1 and list(found)[-2:] == ["mine-2", "mine"]
    assert mine["cases"] == {"20": {"model": "pocket-dit", "steps": 20}, "new": {"model": "pocket-dit", "steps": 5}}
    assert (mine["like"], mine["seed"], mine["images"]) == ("table1", 7, 24)
    assert mine["sampling"] == table1["sampling"] | {"chunk": 8}
    assert found["mine-2"] == mine | {"cfg": 3}  # `like` is the shipped one
    rows = [r for r in config.rows(mine) if r.case == "20"]
    of_table1 = [r for r in config.rows(table1) if r.case == "20"]
    assert [r.slug for r in rows] == [r.slug for r in of_table1]  # its methods as there, less those of other cases
    assert {r.experiment.name for r in config.rows(mine) if r.case == "new"} >= {"full", "harmonica", "fora"}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"tabel1": {}}, "did you mean 'table1'?; a table of your own says which one it is `like`"),
        ({"mine": {"like": "tabel1"}}, "unknown table 'tabel1'; did you mean 'table1'?"),
        ({"a": {"like": "b"}, "b": {"like": "a"}}, "the tables a, b are like each other"),
        ({"a": {"like": "a"}}, "the tables a are like each other"),
        ({"table1": {"like": "table2"}}, "table1 is a shipped table"),
        ({"my table": {"like": "table1"}}, "'my table' must consist of letters, digits and `-`"),
        ({"../x": {"like": "table1"}}, "'../x' must consist of letters"),
        ({"mine": {"like": "table1", "cases": {"4": {"steps": 4}}}}, "'model' is a required property"),
        ({"mine": {"like": "table1", "cases": {"a b": {"model": "pocket-dit", "steps": 4}}}}, "the case 'a b' must"),
        ({"mine": {"like": "table1", "imges": 8}}, "did you mean 'images'?"),
        ({"mine": {"like": ["table1"]}}, "unknown table \"['table1']\""),
    ],
)  # fmt: skip
def test_tables_of_ones_own_that_are_wrong(tables, says):
    with pytest.raises(UserError) as e:
        config.of_scale("pocket", {"tables": tables})
    assert says in str(e.value)


def test_like_is_below_a_table():
    with pytest.raises(UserError, match="put it below the table's name"):
        config.of_scale("pocket", {"like": "table1"})


@pytest.mark.parametrize("scale", ["pocket", "paper"])
def test_shipped_configurations(scale):
    for about in config.tables(read_scale(scale), {"scale": scale}).values():
        config.check(about, schema())
        rows = config.rows(about)
        expected = sum(len(config._cases(about, entry)) for entry in about["methods"])
        assert len({(r.case, r.slug) for r in rows}) == len(rows) == expected >= 5


@pytest.mark.parametrize("scale", ["pocket", "paper"])
def test_two_rivals_are_in_every_case(scale):
    """Fewer steps of the same sampler, and DPM-Solver++ where that is another one. Table 6 has no images."""
    shipped = config.tables(read_scale(scale), {})
    for name in shipped.keys() - {"table6"}:
        for case, rows in itertools.groupby(config.rows(shipped[name]), lambda r: r.case):
            methods = [r.experiment for r in rows]
            better = [] if methods[0].protocol.sampler == "dpmsolver++" else ["better_solver"]
            assert {"fewer_steps", *better} <= {e.name for e in methods}, (name, case)


def test_plans_that_start_from_different_plans_are_different_experiments():
    """A random plan has the reuses of the router of its own case and training seed."""
    about = {
        "scale": "pocket", "seeds": [0, 1], "sampler": "ddim", "cfg": 1.5,
        "cases": {k: {"model": "pocket-dit", "steps": 6} for k in ("a", "b")},
        "methods": ["full", "fora", {"harmonica": {"target_cur": {"a": 20, "b": 40}}}, "random_plan"],
    }  # fmt: skip
    rows = config.rows(about)
    random = [r for r in rows if r.experiment.name == "random_plan"]
    assert len({r.slug for r in random}) == 4
    for r in random:
        source = next(x for x in rows if x.slug == r.requires)
        assert (source.case, source.experiment.seed) == (r.case, r.experiment.seed)
    assert len({r.slug for r in rows if r.experiment.name == "fora"}) == 1  # a heuristic has no seed
    assert [len(line) for line in config.by_method(rows)] == [1, 1, 2, 2] * 2


def test_a_row_goes_on_from_one_of_equal_settings():
    """Of its own case and seed; with other settings, or without such a row, it starts from nothing."""
    about = {
        "scale": "pocket", "seeds": [0, 1], "sampler": "ddim", "cfg": 1.5,
        "cases": {k: {"model": "pocket-dit", "steps": 6} for k in ("a", "b", "c")},
        "methods": ["full", {"step_search": {"target_cur": {"a": 20, "b": 40}, "cases": ["a", "b"]}},
                    {"harmonica_forecast": {"target_cur": {"a": 20, "b": 50, "c": 20}, "candidates": 2}}],
    }  # fmt: skip
    rows = config.rows(about)
    own = {(r.case, r.experiment.seed): r.requires for r in rows if r.experiment.name == "harmonica_forecast"}
    searched = {(r.case, r.experiment.seed): r.slug for r in rows if r.experiment.name == "step_search"}
    assert own["a", 0] == own["c", 0] == searched["a", 0] != own["a", 1] == searched["a", 1]
    assert own["b", 0] is None and own["b", 1] is None


def test_converged_solutions_are_of_deterministic_samplers():
    about = config.tables(read_scale("pocket"), {"scale": "pocket"})["table2"]
    found = {r.case: r.experiment.protocol for r in config.converged(about)}
    assert set(found) == {"dpm-20", "dpm-20-3x"}
    assert all((p.sampler, p.steps, p.cfg) == ("dpmsolver++", 150, about["cfg"]) for p in found.values())
    assert config.converged(about | {"converged": None}) == []


def test_a_case_may_have_images_of_its_own():
    """A group of rows has those of the case that has most of them."""
    own = config.tables(read_scale("pocket"), {})["frontier"]
    own["cases"] = {k: dict(v) for k, v in own["cases"].items() if k in ("dit-2x", "dit-3x", "pixart-2x")}
    own["cases"]["pixart-2x"]["images"] = 30
    own["cases"]["dit-3x"]["images"] = 500
    own["methods"] = ["full", {"fora": {"interval": {"dit-2x": 2, "dit-3x": 3, "pixart-2x": 2}}}]
    rows = config.rows(own)
    shared = [r for r in rows if r.slug == rows[0].slug]
    assert [r.case for r in shared] == ["dit-2x", "dit-3x"]
    assert config.images_of(own, shared) == 500 and config.images_of(own, shared[:1]) == own["images"]
    assert config.images_of(own, [r for r in rows if r.case == "pixart-2x"]) == 30
