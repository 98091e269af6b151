"""What a table says of the paper's claims: yes, no or undecided, from the paired differences of its rows."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from harmonica.evaluation.metrics import METRICS
from harmonica.evaluation.statistics import Estimate
from harmonica.experiments import Row
from paper_tables.figures import named
from paper_tables.measured import Measured

EQUAL = 0.05  # relative difference of MACs up to which two rows cost the same


class Claim(NamedTuple):
    """What is claimed, the method that is better by it, the other one, and the metrics that judge it. The better one's
    rows have these `settings`, the other's have none."""

    text: str
    better: str
    other: str
    judges: tuple[str, ...] = ("FID", "FID_uncached")
    settings: str = ""


# distance to the uncached images punishes a solver that is closer to the solution than they are
_RIVALS = ("FID", "PSNR_converged")
CLAIMS = (
    Claim("a learned plan beats fewer steps", "HarmoniCa", "Fewer steps", ("FID", "FID_uncached", "PSNR_converged")),
    Claim("the image-error proxy beats the plain loss", "HarmoniCa", "SDT + L_LTC"),
    Claim("the image-error proxy helps training on noised images, too", "Learning-to-Cache", "Learning-to-Cache",
          settings="iepo True"),
    Claim("step-wise training beats training on noised images", "SDT + L_LTC", "Learning-to-Cache"),
    Claim("HarmoniCa beats Learning-to-Cache", "HarmoniCa", "Learning-to-Cache"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "FORA"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "Δ-DiT"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "DeepCache"),
    Claim("a learned plan beats a heuristic", "HarmoniCa", "Faster Diffusion"),
    Claim("caching beats pruning", "HarmoniCa", "Diff-Pruning"),
    Claim("caching beats quantisation", "HarmoniCa", "EfficientDM W8A8"),
    Claim("caching beats quantisation", "HarmoniCa", "PTQ4DiT W8A8"),
)  # fmt: skip
OURS = (
    Claim("a learned plan beats a better solver (not in the paper)", "HarmoniCa", "DPM-Solver++", _RIVALS),
    Claim("trained weights of a forecast beat its search alone (not in the paper)", "HarmoniCa-Forecast", "Step search",
          ("FID_uncached", "PSNR")),
    Claim("a forecast beats a better solver (not in the paper)", "HarmoniCa-Forecast", "DPM-Solver++", _RIVALS),
)  # fmt: skip
CONTROL = "Random plan"
CLOSER = "closer to the uncached images (FID) than HarmoniCa's number of reuses at random places"
BY_MACS = "undecided at unequal MACs"
TIME = "training time"


class Verdict(NamedTuple):
    """One metric's verdict on one claim: `low` to `high` is the 95 % interval of the `gap`, which is the better row's
    value less the other's, or over it if it `is_ratio`; `macs` is the ratio of their MACs."""

    claim: str
    better: str
    other: str
    metric: str
    verdict: str
    gap: float
    low: float
    high: float
    is_ratio: bool
    macs: float


def verdict(low: float, high: float, sign: int, cost: float = 1.0) -> str:
    """Whether a difference is an improvement: "yes" or "no" if its interval leaves out 0, else "undecided".

    `cost` is the row's MACs over the other row's: one that costs more is no better for being closer, nor one that costs
    less worse.
    """
    if low <= 0 <= high or not np.isfinite(low + high):
        return "undecided"
    improves = sign * low > 0
    excused = cost > 1 + EQUAL if improves else cost < 1 - EQUAL
    return BY_MACS if excused else "yes" if improves else "no"


def judged(
    metric: str, own: Estimate | None, other: Estimate | None, cost: float
) -> tuple[str, float, float, float, bool] | None:
    """The verdict on one metric, the gap, its interval and whether it is a ratio. None if a row has no interval."""
    if own is None or other is None:
        return None
    about = METRICS[metric]
    on_log = about.on_log(own) and about.on_log(other)
    gap = own.log() - other.log() if on_log else own - other
    low, high = gap.interval()
    return verdict(low, high, about.sign, cost), *(gap.exp() if on_log else (gap.value, low, high)), on_log


def verdicts(lines: list[list[Row]], block: pd.DataFrame, measured: Measured) -> Iterator[Verdict]:
    """What the rows of a case say of every claim that they can test, and of the control; `block` has the table's row of
    every line. The other row is the one of nearest MACs."""
    macs = block.GMACs.tolist()
    names = named(block).tolist()
    for claim in (*CLAIMS, *OURS):
        others = [i for i, n in enumerate(names) if n == claim.other]
        own = [i for i, n in enumerate(names) if n == f"{claim.better} {claim.settings}".strip()]
        for a in own if others else []:
            b = min(others, key=lambda i: abs(macs[i] - macs[a]))
            at = f" at a CUR of {block.CUR.iloc[a]:.0f} %" if len(own) > 1 else ""
            yield from _of_pair(claim.text, names[a] + at, names[b], claim.judges, a, b, macs, lines, measured)
    if CONTROL in names:
        control = names.index(CONTROL)
        for i, line in enumerate(lines):
            if i != control and not line[0].experiment.method.plain:
                yield from _of_pair(CLOSER, names[i], CONTROL, ("FID_uncached",), i, control, macs, lines, measured)


def _of_pair(
    claim: str, better: str, other: str, judges: Iterable[str], a: int, b: int, macs: list[float],
    lines: list[list[Row]], measured: Measured,
) -> Iterator[Verdict]:  # fmt: skip
    cost = macs[a] / macs[b]
    for k in judges:
        found = judged(k, measured.estimate(lines[a], k), measured.estimate(lines[b], k), cost)
        if found:
            yield Verdict(claim, better, other, k, *found, cost)


def text(found: Iterable[Verdict]) -> list[str]:
    """A line per claim and pair of rows; one for the control, with all of its rows."""
    found, out = list(found), []
    for (claim, better, other), own in groupby((v for v in found if v.claim != CLOSER), lambda v: v[:3]):
        parts = list(own)
        said = "; ".join(f"{_heading(v.metric)} **{v.verdict}** {_gap(v)}" for v in parts)
        cost = parts[0].macs
        unequal = f"; {better} takes {cost:.2f} of the other's MACs" if abs(cost - 1) > EQUAL else ""
        out.append(f"- {claim} ({better} against {other}): {said}{unequal}")
    control = [v for v in found if v.claim == CLOSER]
    words = [
        f"**{word}**: " + ", ".join(f"{v.better} {_gap(v)}" for v in control if v.verdict == word)
        for word in ("yes", "no", "undecided", BY_MACS)
        if any(v.verdict == word for v in control)
    ]
    return [*out, f"- {CLOSER}: {'; '.join(words)}"] if words else out


def of_cost(better: str, other: str, own: np.ndarray, theirs: np.ndarray) -> Iterator[Verdict]:
    """Whether one method trains in less time than another, from the seconds of each one's training seeds; of single
    trainings nothing is said."""
    if min(len(own), len(theirs)) > 1:
        a, b = (Estimate(float(x.mean()), np.zeros(2), (x,)).log() for x in (own, theirs))
        said = verdict(*(a - b).interval(), -1)
        yield Verdict("it trains in less time", better, other, TIME, said, *(a - b).exp(), True, 1.0)


def _heading(metric: str) -> str:
    return METRICS[metric].heading[:-2] if metric in METRICS else metric


def _gap(v: Verdict) -> str:
    if v.is_ratio:
        return f"(×{v.gap:.3g}, {v.low:.3g} … {v.high:.3g})"
    return f"({v.gap:+.3g}, {v.low:+.3g} … {v.high:+.3g})"
