"""Weights of forecasts by extrapolation: a polynomial through a branch's last outputs, at the step that is skipped.

TaylorSeer, HiCache, FoCa and Adams-Bashforth rules are such sums, too: all that differs is the weights.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np

from harmonica.plan.program import FORECASTS, History, history, provides, row_ops


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
    ops = [dict(row_ops(row)) for row in actions]
    sources: dict[History, np.ndarray] = {}
    for s, row in enumerate(ops):
        for start, op in row.items():
            if op.action not in FORECASTS:
                continue
            of = history(op.action, start, op.stop)
            if of not in sources:
                sources[of] = np.array([k for k in range(steps) if provides(ops[k], of)])
            last = sources[of][sources[of] < s][::-1][: orders[s] + 1]
            weights[s, start : op.stop, : len(last)] = lagrange(x[last], x[s])
    return weights


def taylor(at: float, full: Sequence[float], order: int) -> np.ndarray:
    """Weights float64 (J,), J ≤ order + 1, of a Taylor series from the steps `full` (the newest first): Σᵢ kⁱ/i! · Dᵢ,
    k steps after the newest. D₀ is its output, Dᵢ₊₁ = (Dᵢ − Dᵢ at the step before) / steps between the two
    (TaylorSeer)."""
    return np.array([(at - full[0]) ** i / factorial(i) for i in range(min(order + 1, len(full)))]) @ derivatives(
        full, order
    )


def derivatives(full: Sequence[float], order: int) -> np.ndarray:
    """Weights float64 (J, J) of outputs at the steps `full` (the newest first) in D₀ … of `taylor`, J ≤ order + 1."""
    count = min(order + 1, len(full))
    rows = np.eye(count)  # Dᵢ at each of the steps
    out = [rows[0]]
    for _ in range(count - 1):
        gaps = -np.diff(np.asarray(full[: len(rows)], np.float64))
        rows = (rows[:-1] - rows[1:]) / gaps[:, None]
        out.append(rows[0])
    return np.array(out)
