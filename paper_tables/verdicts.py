"""What a table says of the paper's claims: yes, no or undecided, from the paired differences of its rows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from harmonica.evaluation.metrics import METRICS
from harmonica.evaluation.statistics import Estimate
from harmonica.experiments import Row
from paper_tables.measured import Measured

EQUAL = 0.05  # relative difference of MACs up to which two rows cost the same


class Claim(NamedTuple):
    """What is claimed, the method that is better by it, the other one, and the metrics that judge it."""

    text: str
    better: str
    other: str
    judges: tuple[str, ...] = ("FID", "FID_uncached")


# distance to the uncached images punishes a solver that is closer to the solution than they are
_RIVALS = ("FID", "PSNR_converged")
CLAIMS = (
    Claim("a learned plan beats fewer steps", "HarmoniCa", "Fewer steps", ("FID", "FID_uncached", "PSNR_converged")),
    Claim("the image-error proxy beats the plain loss", "HarmoniCa", "SDT + L_LTC"),
    Claim("step-wise training beats training on noised images", "SDT + L_LTC", "Learning-to-Cache"),
    Claim("HarmoniCa beats Learning-to-Cache", "HarmoniCa", "Learning-to-Cache"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "FORA"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "Δ-DiT"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "DeepCache"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "Faster Diffusion"),
)
OURS = (Claim("a learned plan beats a better solver (not in the paper)", "HarmoniCa", "DPM-Solver++", _RIVALS),)
CONTROL = "Random plan"


def verdict(low: float, high: float, sign: int, cost: float = 1.0) -> str:
    """Whether a difference is an improvement: "yes" or "no" if its interval leaves out 0, else "undecided".

    `cost` is the row's MACs over the other row's: one that costs more is no better for being closer, nor one that costs
    less worse.
    """
    if low <= 0 <= high or not np.isfinite(low + high):
        return "undecided"
    improves = sign * low > 0
    excused = cost > 1 + EQUAL if improves else cost < 1 - EQUAL
    return "undecided" if excused else "yes" if improves else "no"


def judged(metric: str, own: Estimate | None, other: Estimate | None, cost: float) -> tuple[str, str] | None:
    """The verdict on one metric, and the difference with its interval. None if a row has no interval."""
    if own is None or other is None:
        return None
    gap = own - other
    low, high = gap.interval()
    return verdict(low, high, METRICS[metric].sign, cost), f"({gap.value:+.3g}, {low:+.3g} … {high:+.3g})"


def verdicts(lines: list[list[Row]], block: pd.DataFrame, measured: Measured) -> Iterator[str]:
    """One line per claim that the rows of a case can test, and one on the control; `block` has the table's row of every
    line. Where the costs of two rows differ by more than EQUAL, the line says so."""
    methods, macs = block.method.tolist(), block.GMACs.tolist()
    for claim in (*CLAIMS, *OURS):
        if methods.count(claim.better) != 1 or claim.other not in methods:
            continue
        a = methods.index(claim.better)
        b = min((i for i, m in enumerate(methods) if m == claim.other), key=lambda i: abs(macs[i] - macs[a]))
        cost = macs[a] / macs[b]
        parts = []
        for k in claim.judges:
            found = judged(k, measured.estimate(lines[a], k), measured.estimate(lines[b], k), cost)
            if found:
                parts.append(f"{METRICS[k].heading[:-2]} **{found[0]}** {found[1]}")
        if parts:
            unequal = f"; not at equal MACs, {claim.better} takes {cost:.2f} of {claim.other}'s"
            unequal = unequal if abs(cost - 1) > EQUAL else ""
            yield f"- {claim.text} ({claim.better} against {claim.other}): {'; '.join(parts)}{unequal}"
    if CONTROL in methods:
        yield from _control(methods, macs, lines, measured)


def _control(methods: list[str], macs: list[float], lines: list[list[Row]], measured: Measured) -> Iterator[str]:
    """Which caching methods are closer to the uncached images than reuse at random places."""
    at, metric = methods.index(CONTROL), "FID_uncached"
    random = measured.estimate(lines[at], metric)
    said: dict[str, list[str]] = {"yes": [], "no": [], "undecided": []}
    for i, line in enumerate(lines):
        if line[0].experiment.method.plain or i == at:
            continue
        found = judged(metric, measured.estimate(line, metric), random, macs[i] / macs[at])
        if found:
            said[found[0]].append(f"{methods[i]} {found[1]}")
    parts = [f"**{k}**: {', '.join(names)}" for k, names in said.items() if names]
    if parts:
        yield f"- closer to the uncached images (FID) than as many reuses at random places: {'; '.join(parts)}"
