"""Compressions in a table's configuration: what a row runs on is part of its identity."""

import pytest

from harmonica.experiments.config import by_method, check_plans, rows, uncached
from harmonica.plan import Origin, Protocol, all_compute
from harmonica.utils import UserError

FOUR_BITS = {"efficientdm": {"weight_bits": 4}}
CONFIG = {
    "cases": {"20": {"model": "pocket-dit", "steps": 20}}, "sampler": "ddim", "cfg": 1.3, "seeds": [0, 1],
    "methods": ["full", {"full": {"compression": "w8a8"}}, {"full": {"compression": FOUR_BITS}},
                {"fora": {"interval": 2, "compression": FOUR_BITS}}, {"fora": {"interval": 2}},
                {"harmonica": {"target_cur": 30, "compression": "w8a8"}}],
}  # fmt: skip


def test_rows_and_their_names():
    found = rows(CONFIG)
    base = "pocket-dit_ddim20_cfg1.3"
    assert [r.slug for r in found] == [
        f"{base}_full", f"{base}_full_on-w8a8",
        f"{base}_full_on-efficientdm-weight_bits4", f"{base}_seed1_full_on-efficientdm-weight_bits4",
        f"{base}_fora-interval2_on-efficientdm-weight_bits4",
        f"{base}_seed1_fora-interval2_on-efficientdm-weight_bits4",
        f"{base}_fora-interval2",
        f"{base}_harmonica-target_cur30.0_on-w8a8", f"{base}_seed1_harmonica-target_cur30.0_on-w8a8",
    ]  # fmt: skip
    assert [len(line) for line in by_method(found)] == [1, 1, 2, 2, 1, 2]
    assert uncached(found, "20") is found[0] and not found[1].experiment.uncached
    assert found[3].experiment.compression.slug == f"{base}_seed1_efficientdm-weight_bits4"  # it depends on the seed
    assert found[8].experiment.compression.slug == f"{base}_w8a8"  # it does not, and is shared
    assert [line[0].experiment.label for line in by_method(found)] == [
        "Full", "W8A8 dynamic", "EfficientDM W4A8", "EfficientDM W4A8 + FORA", "FORA", "W8A8 dynamic + HarmoniCa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ([{"full": {"compression": "w8a8"}}], "must begin with `full`"),
        (["full", {"full": {"compression": "w8a9"}}], "unknown compression 'w8a9'; did you mean 'w8a8'"),
        (["full", {"full": {"compression": {"efficientdm": {"bits": 4}}}}], "unknown setting of efficientdm 'bits'"),
        (["full", {"full": {"compression": {"efficientdm": {"act_bits": 1}}}}], "act_bits must be in [2, 8], got 1"),
        (["full", {"full": {"compression": "w8a8"}}, {"full": {"compression": "w8a8"}}], "two rows are the same"),
    ],
)  # fmt: skip
def test_what_is_refused(methods, says):
    with pytest.raises(UserError) as error:
        rows(CONFIG | {"methods": methods})
    assert says in str(error.value)


def test_a_plan_of_another_compression_is_refused():
    found = rows(CONFIG | {"methods": ["full", {"full": {"compression": "w8a8"}}]})
    p = Protocol("pocket-dit", "ddim", 20, 1.3)
    plain, on = (all_compute(p, 16, Origin("full", notes=n)) for n in ({}, {"compression": {"method": "w8a8"}}))
    check_plans(found, {found[0].slug: plain, found[1].slug: on})
    with pytest.raises(UserError, match="says that it was made for the model itself"):
        check_plans(found, {found[0].slug: plain, found[1].slug: plain})
    with pytest.raises(UserError, match="says that it was made for w8a8"):
        check_plans(found, {found[0].slug: on, found[1].slug: on})
