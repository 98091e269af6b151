"""Local search over sets of key steps, those at which a plan computes. No torch: `value` judges a set."""

from collections.abc import Callable, Iterable

import numpy as np

Keys = tuple[int, ...]  # increasing, the first is 0
BENDS = (0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # of the spacing of a start; above 1 it is denser among the first, noisy steps
LEAST = 0.02  # of gain, in dB: smaller ones do not hold on other images


def starts(steps: int, count: int, unit: int = 1) -> list[Keys]:
    """Sets of `count` key steps to begin with: evenly spaced, and denser at either end. With a `unit` above 1, keys are
    multiples of it where there are enough."""
    found: dict[Keys, None] = {}
    for bend in BENDS:
        for last in (steps - 1, steps - 2):
            raw = max(last, 0) * np.linspace(0, 1, count) ** bend
            keys = set((np.round(raw / unit) * unit).astype(int).clip(0, steps - 1).tolist()) | {0}
            free = sorted(set(range(steps)) - keys, key=lambda s: (s % unit, s))
            found[tuple(sorted([*keys, *free[: count - len(keys)]]))] = None
    return list(found)


def search(
    value: Callable[[Keys], float], begin: Iterable[Keys], steps: int, rng: np.random.Generator, evaluations: int
) -> dict[Keys, float]:
    """The sets that were judged with at most `evaluations` calls of `value`, larger is better; the best is the end of a
    local search from the best of `begin` on.

    One key moves at a time: by a step, by half the usual gap, then anywhere. It ends when no move helps.
    """
    known: dict[Keys, float] = {}

    def judged(keys: Keys) -> float:
        if keys not in known:
            known[keys] = value(keys)
        return known[keys]

    best = max(begin, key=judged)
    while len(known) < evaluations:
        before = best
        for i in rng.permutation(np.arange(1, len(best))):
            for moved in _moves(best, int(i), steps, rng):
                if len(known) < evaluations and judged(moved) > judged(best) + LEAST:
                    best = moved
                    break
        if best == before:
            best = _jump(best, steps, rng, judged, lambda: len(known) < evaluations)
        if best == before:
            break
    return known


def _moves(keys: Keys, i: int, steps: int, rng: np.random.Generator) -> list[Keys]:
    """The set with its `i`-th key moved a little, in random order."""
    far = max(2, steps // len(keys) // 2)
    targets = (keys[i] + d for d in rng.permutation([-far, -1, 1, far]))
    return [_with(keys, i, int(t)) for t in targets if 0 < t < steps and t not in keys]


def _jump(keys: Keys, steps: int, rng: np.random.Generator, judged, more: Callable[[], bool], tries: int = 30) -> Keys:
    """The first of some random sets with one key elsewhere that is better; the same set if none is."""
    free = [s for s in range(1, steps) if s not in keys]
    for _ in range(tries if free and len(keys) > 1 else 0):
        moved = _with(keys, int(rng.integers(1, len(keys))), int(rng.choice(free)))
        if more() and judged(moved) > judged(keys) + LEAST:
            return moved
    return keys


def _with(keys: Keys, i: int, step: int) -> Keys:
    return tuple(sorted((*keys[:i], *keys[i + 1 :], step)))
