import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harmonica.training.key_search import search, starts


@given(st.integers(1, 40), st.data())
def test_starts_are_sets_of_so_many_steps(steps, data):
    count, unit = data.draw(st.integers(1, steps)), data.draw(st.sampled_from([1, 2]))
    found = starts(steps, count, unit)
    assert found and len(set(found)) == len(found)
    for keys in found:
        assert len(keys) == count and keys[0] == 0 and list(keys) == sorted(set(keys)) and keys[-1] < steps


def test_a_search_finds_the_keys_that_it_is_rewarded_for():
    hidden = (0, 3, 4, 11, 17)

    def value(keys):
        return -float(sum(abs(a - b) for a, b in zip(keys, hidden, strict=True)))

    known = search(value, starts(20, 5), 20, np.random.default_rng(0), 400)
    assert max(known, key=known.get) == hidden


@given(st.integers(1, 30), st.integers(0, 5))
def test_a_search_keeps_to_its_evaluations(evaluations, seed):
    calls = []

    def value(keys):
        calls.append(keys)
        return float(np.random.default_rng([seed, *keys]).random())

    begin = starts(12, 4)
    known = search(value, begin, 12, np.random.default_rng(seed), evaluations)
    assert len(calls) == len(set(calls)) == len(known) <= max(evaluations, len(begin))
    assert all(keys[0] == 0 and len(keys) == 4 for keys in known)
