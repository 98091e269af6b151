"""What all learned methods share and needs no torch: their settings, and the search for β within one training."""

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harmonica.errors import UserError
from harmonica.provenance import SAMPLING_SOURCES

SOURCES = SAMPLING_SOURCES + tuple(
    f"harmonica/{f}.py" for f in ("sdt", "iepo", "logits", "learning", "router", "training", "pocket/data")
)  # what a trained router depends on
CHECKPOINT_TOKENS = 4096  # of a stream: a PixArt of 1024 pixels would keep 30 GB of activations
START = 0.5  # of the guessed β: the target is better met from below, since saturated logits are slow to come back
LOOK_AHEAD = 5  # rounds
RATE = 0.25  # of log β a round, at the largest gap
MET = 0.5  # percentage points of CUR: so near the target is met
CLOSABLE = 10.0  # percentage points of CUR that the threshold may make up for
LEFT = 5.0  # percentage points that may be left, where no threshold parts the logits at their limit
LONGEST = 1.5  # of the rounds of a training with a given β: what the search may cost


@dataclass(frozen=True, kw_only=True)
class LearnedSettings:
    """Settings of every learned method; those in RECIPE default to the recipe of the model's scale."""

    RECIPE: ClassVar = ("rounds", "batch", "lr", "refresh")

    target_cur: float = 25.0  # percent; β is searched so that the router's plan has this CUR
    beta: float | None = None  # β, weight of Σr; given, it is used as it is and target_cur is not
    threshold: float = 0.1  # τ, compute where r > τ; of the training, and of the plan where the search met its target
    rounds: int | None = None  # trajectories (SDT), or updates of every routed step (LTC)
    batch: int | None = None  # images a round, before guidance doubles them
    lr: float | None = None  # of AdamW, without weight decay
    refresh: int | None = None  # C, rounds between two measurements of λ
    checkpointing: bool | None = None  # compute branches again for their gradients; by default by their tokens

    def __post_init__(self):
        if not 0 <= self.threshold < 1:
            raise UserError(f"threshold lies in [0, 1), not at {self.threshold:g}")
        for key in ("beta", *self.RECIPE):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"{key} is above 0, not {value:g}")

    @property
    def checkpoint_tokens(self) -> int:
        """The shortest stream whose branches are computed again for their gradients."""
        return {None: CHECKPOINT_TOKENS, True: 0, False: sys.maxsize}[self.checkpointing]

    def recipe(self, default: "Recipe") -> "Recipe":
        given = {k: v for k in self.RECIPE if (v := getattr(self, k)) is not None}
        return Recipe(**{**default.__dict__, **given})


@dataclass(frozen=True)
class Recipe:
    rounds: int
    batch: int
    lr: float
    refresh: int = 1  # C, rounds between two measurements of λ
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; a short training forgets faster, or logits stick at ±5
    eps: float = 1e-8  # of AdamW; gradients here are as small as β · r(1−r), far below it for saturated logits


@dataclass(frozen=True)
class Work:
    """What a training computes, counted in single images: for `harmonica estimate`."""

    updates: float  # teacher, student and gradient at one step
    evaluations: float  # of the plain model
    batch: int
    guided: bool = True  # whether an image is evaluated with both guidance halves


class BetaSearch:
    """Finds β for a wanted cache utilisation ratio (CUR) while the router trains.

    The paper tunes β by hand until a row's CUR is met, one training a try. Here β starts at a guess from the branches'
    own gradients, and log β then follows the gap between the CUR at the threshold and its target, so that one training
    does: the search is part of the method and its cost part of the row. A training that has not met its target after
    half as many rounds again is ended there, and the threshold makes up for the rest.

    Raises UserError for a target that no router of this kind can have: `reachable` is its highest CUR, percent.
    """

    def __init__(self, method: str, settings: LearnedSettings, reachable: float, rounds: int):
        self.method, self.target, self.beta = method, settings.target_cur, settings.beta
        self.fixed, self.rounds, self.cur, self.moves = self.beta is not None, rounds, 0.0, 0
        self.share = self.target / max(reachable, 1e-9)  # of the routed branches
        if reachable <= 0:
            raise UserError(f"{method} has nothing to route: the first step computes everything, and there is no other")
        if not self.fixed and not 0 < self.target <= reachable:
            raise UserError(
                f"{method} cannot reach a CUR of {self.target:g} %: with this number of steps it lies between 0 and "
                f"{reachable:.1f} %"
            )

    def guess(self, balance: np.ndarray) -> None:
        """First β from `balance`: for each routed branch the β at which it would settle just at the threshold."""
        if not self.fixed:
            self.beta = max(START * float(np.quantile(np.abs(balance), self.share)), 1e-20)

    def update(self, k: int, logits, threshold: float) -> None:
        """Look at the CUR after round `k`. β rests while the logits answer the first guess; then it follows the CUR
        that is coming, since logits under way to the threshold cannot be called back at once."""
        self.cur, coming = logits.cur(threshold, ahead=LOOK_AHEAD)
        if k >= 0.15 * self.rounds and not self.fixed:
            gap = np.clip((self.target - coming) / self.target, -1, 1)
            self.beta *= math.exp(RATE * gap * min(1.0, 60 / self.rounds))
            self.moves += 1

    def finished(self, k: int) -> bool:
        """Whether round `k` was the last: the target is met late enough, or the search has cost all it may."""
        if k + 1 < self.rounds:
            return not self.fixed and k + 1 >= 0.75 * self.rounds and self.met
        return self.fixed or self.met or k + 1 >= LONGEST * self.rounds

    @property
    def met(self) -> bool:
        return abs(self.cur - self.target) <= MET

    def close(self, ratios: np.ndarray, threshold: float) -> tuple[float, float]:
        """The threshold for the plan of routers (steps, branches), and the plan's CUR: the given one where it meets the
        target, else the one that comes nearest, halfway between the two ratios that it parts.

        No threshold parts logits that are at their limit, so that some points may be left. Raises UserError when the
        training, or what is left, is too far from the target.
        """
        if self.fixed or self.met:
            return threshold, self.cur
        values, counts = np.unique(ratios, return_counts=True)
        curs = 100 * np.cumsum(counts)[:-1] / ratios.size  # at a threshold above each value but the highest
        left, at = min(((abs(c - self.target), k) for k, c in enumerate(curs)), default=(np.inf, 0))
        if abs(self.cur - self.target) > CLOSABLE or left > LEFT:
            raise UserError(
                f"{self.method} ended at a CUR of {self.cur:.1f} %, not {self.target:g} %: train for more rounds, or "
                "ask for a ratio nearer to what was found"
            )
        if left > abs(self.cur - self.target) - 1e-9:
            return threshold, self.cur
        return float(values[at] + values[at + 1]) / 2, float(curs[at])
