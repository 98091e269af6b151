"""Weights of forecasts by extrapolation: a polynomial through a branch's last outputs, at the step that is skipped.

TaylorSeer, HiCache, FoCa and Adams-Bashforth rules are such sums, too: all that differs is the weights.
"""

from collections.abc import Sequence

import numpy as np

from harmonica.plan.program import COMPUTE, FORECAST, FORECASTS, SPAN_FORECAST


def lagrange(times: Sequence[float], at: float) -> np.ndarray:
    """Weights float64 (J,) of values at distinct `times` (J,): the polynomial of degree J - 1 through them, at `at`."""
    x = np.asarray(times, np.float64)
    gaps = x[:, None] - x
    np.fill_diagonal(gaps, 1.0)
    ahead = np.broadcast_to(at - x, gaps.shape).copy()
    np.fill_diagonal(ahead, 1.0)
    return (ahead / gaps).prod(1)


def extrapolation(
    actions: np.ndarray, order: int | Sequence[int] = 1, times: Sequence[float] | None = None
) -> np.ndarray:
    """Weights float32 (steps, branches, order + 1) of forecasts, for actions uint8 (steps, branches): extrapolation of
    degree `order`, one for all steps or one a step, from the last outputs; of a lower degree where there are fewer.

    `times` (steps,) is where a step lies; by default its index. A span of forecasts takes the steps that pass through
    all of it.
    """
    steps, branches = actions.shape
    orders = np.broadcast_to(np.asarray(order, int), (steps,))
    x = np.arange(steps, dtype=np.float64) if times is None else np.asarray(times, np.float64)
    weights = np.zeros((steps, branches, int(orders.max()) + 1), np.float32)
    known: dict[tuple[int, int, int], np.ndarray] = {}
    for s in range(steps):
        for start, stop in _forecast_runs(actions[s]):
            kind = int(actions[s, start])
            if (kind, start, stop) not in known:
                known[kind, start, stop] = _sources(actions, kind, start, stop)
            before = known[kind, start, stop]
            last = before[before < s][::-1][: orders[s] + 1]
            weights[s, start:stop, : len(last)] = lagrange(x[last], x[s])
    return weights


def _forecast_runs(row: np.ndarray) -> list[tuple[int, int]]:
    """Forecast branches (start, stop) of a step, and its runs of span forecasts."""
    out: list[tuple[int, int]] = []
    for i in map(int, np.flatnonzero(np.isin(row, FORECASTS))):
        if out and row[i] == SPAN_FORECAST and out[-1][1] == i and row[i - 1] == SPAN_FORECAST:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out


def _sources(actions: np.ndarray, kind: int, start: int, stop: int) -> np.ndarray:
    """Steps whose outputs a forecast takes: those that compute the branch, or pass through the span singly."""
    if kind == FORECAST:
        return np.flatnonzero(actions[:, start] == COMPUTE)
    singly = (actions[:, start:stop] <= 1) | (actions[:, start:stop] == FORECAST)
    return np.flatnonzero(singly.all(1))
