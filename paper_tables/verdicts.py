"""What a table says of the paper's claims: yes, no or undecided, from the paired differences of its rows."""

from collections.abc import Iterator

import numpy as np

from harmonica.evaluation import statistics
from harmonica.evaluation.metrics import METRICS

EQUAL = 0.05  # relative difference of MACs up to which two rows cost the same
JUDGED = ("FID", "FID_uncached")
CLAIMS = (  # what the paper claims, the row that is better by it, the other row
    ("a learned plan beats random reuse", "HarmoniCa", "Random plan"),
    ("a learned plan beats fewer steps", "HarmoniCa", "Fewer steps"),
    ("the image-error proxy beats the plain loss", "HarmoniCa", "SDT + L_LTC"),
    ("step-wise training beats training on noised images", "SDT + L_LTC", "Learning-to-Cache"),
    ("HarmoniCa beats Learning-to-Cache", "HarmoniCa", "Learning-to-Cache"),
    ("a learned plan beats a heuristic", "HarmoniCa", "FORA"),
    ("a learned plan beats a heuristic", "HarmoniCa", "Δ-DiT"),
    ("a learned plan beats a heuristic", "HarmoniCa", "DeepCache"),
    ("a learned plan beats a heuristic", "HarmoniCa", "Faster Diffusion"),
)


def difference(own: dict, other: dict, metric: str) -> tuple[float, float, float]:
    """How much larger a metric of one row is than of another of the same seeds, with the interval (low, high)."""
    gap, blocks = own[metric] - other[metric], np.subtract(own["blocks"][metric], other["blocks"][metric])
    return gap, *statistics.interval(gap, blocks)


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


def verdicts(methods: list[str], gmacs: list[float], measured: list[dict]) -> Iterator[str]:
    """One line per claim that the rows of a case can test; `measured` has the metrics and block means of every row.

    Where the costs of two rows differ by more than EQUAL, the line says so.
    """
    for claim, better, other in CLAIMS:
        if methods.count(better) != 1 or methods.count(other) != 1:
            continue
        a, b = methods.index(better), methods.index(other)
        parts, cost = [], gmacs[a] / gmacs[b]
        for k in JUDGED:
            if all(k in measured[i].get("blocks", {}) for i in (a, b)):
                gap, low, high = difference(measured[a], measured[b], k)
                name = METRICS[k].heading[:-2]
                said = verdict(low, high, METRICS[k].sign, cost)
                parts.append(f"{name} **{said}** ({gap:+.3g}, {low:+.3g} … {high:+.3g})")
        if parts:
            unequal = "" if abs(cost - 1) <= EQUAL else f"; not at equal MACs, {better} takes {cost:.2f} of {other}'s"
            yield f"- {claim} ({better} against {other}): {'; '.join(parts)}{unequal}"
