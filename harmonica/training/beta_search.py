"""The search for β within one training. No torch."""

import math

import numpy as np

from harmonica.training.settings import LearnedSettings
from harmonica.utils import UserError

START = 0.5  # share of the guessed β: better approach the target from below, as saturated logits return slowly
LOOK_AHEAD = 5  # rounds
RATE = 0.25  # change of log β per round, at the largest gap, in trainings of 30 to 60 rounds
CUR_TOLERANCE = 0.5  # percentage points of CUR within which the target is met
MAX_GAP = 10.0  # percentage points of CUR that the threshold may correct
MAX_REMAINDER = 5.0  # percentage points that may remain if saturated logits are tied
MAX_ROUNDS_FACTOR = 1.5  # limit of a search, over the rounds of a training with given β


class BetaSearch:
    """Finds β for a target cache utilisation ratio (CUR) while the router trains.

    The paper tunes β by hand until a row's CUR is met, with one training per attempt. Here β starts at a guess from the
    branches' own gradients, and log β then follows the gap between the CUR at the threshold and its target, so that one
    training suffices: the search is part of the method and its cost part of the row. A training that misses its target
    after MAX_ROUNDS_FACTOR times its rounds stops; its router is that of the round which came closest, among those that
    could have been the last, and the threshold corrects the rest. The last round need not be the closest: on a U-ViT
    reuse makes later reuse cheaper, and the CUR goes on rising from 45 to 70 % while β falls to a tenth.

    Raises UserError for a target above `reachable`, the highest CUR of this kind of router in percent.
    """

    def __init__(self, method: str, settings: LearnedSettings, reachable: float, rounds: int):
        self.method, self.target, self.fixed = method, settings.target_cur, settings.beta is not None
        self.beta = settings.beta or 0.0  # if not given, `guess` sets it before the first round
        self.rounds, self.cur, self.moves = rounds, 0.0, 0
        self.share = self.target / max(reachable, 1e-9)  # of the routed branches
        self.off_target = settings.off_target
        self.closest: tuple[float, list[list[float]]] | None = None  # CUR and logits of that round
        settings.check_target(method, reachable)

    def guess(self, balance: np.ndarray) -> None:
        """First β, from `balance` (steps, branches): the β at which a branch would settle at the threshold."""
        if not self.fixed:
            self.beta = max(START * float(np.quantile(np.abs(balance), self.share)), 1e-20)

    def update(self, k: int, logits, threshold: float) -> None:
        """Update β after round `k`. It is constant while the logits respond to the first guess; then it follows the
        extrapolated CUR, since logits moving towards the threshold do not reverse at once."""
        self.cur, ahead = logits.cur(threshold, ahead=LOOK_AHEAD)
        if k >= 0.15 * self.rounds and not self.fixed:
            gap = np.clip((self.target - ahead) / self.target, -1, 1)
            shorter = max(1.0, 30 / self.rounds)  # with fewer rounds β has to come as far in them
            self.beta *= math.exp(RATE * gap * min(shorter, 60 / self.rounds))
            self.moves += 1
        if self._late(k) and (self.closest is None or self._gap(self.cur) < self._gap(self.closest[0])):
            self.closest = self.cur, logits.numpy().tolist()

    def chosen(self, logits: np.ndarray) -> np.ndarray:
        """The logits (steps, branches) of the router: the last ones, or those that came closest to a missed target."""
        if self.fixed or self.met or self.closest is None:
            return logits
        self.cur, closest = self.closest
        return np.array(closest, logits.dtype)

    def _gap(self, cur: float) -> float:
        return abs(cur - self.target)

    def _late(self, k: int) -> bool:
        """Whether round `k` may be the last if it meets the target."""
        return not self.fixed and k + 1 >= 0.75 * self.rounds

    def finished(self, k: int) -> bool:
        """Whether round `k` was the last: the target is met late enough, or the search is at its limit."""
        if k + 1 < self.rounds:
            return self._late(k) and self.met
        return self.fixed or self.met or k + 1 >= MAX_ROUNDS_FACTOR * self.rounds

    @property
    def met(self) -> bool:
        return self._gap(self.cur) <= CUR_TOLERANCE

    def close(self, ratios: np.ndarray, threshold: float) -> tuple[float, float]:
        """The threshold for the plan of ratios (steps, branches), and the plan's CUR: the given threshold if it meets
        the target, else the one that comes closest, halfway between the two ratios it separates.

        Saturated logits are tied, so a remainder is possible. Raises UserError if the training, or the
        remainder, is too far from the target; with `off_target` the threshold is the given one then.
        """
        if self.fixed or self.met:
            return threshold, self.cur
        values, counts = np.unique(ratios, return_counts=True)
        curs = 100 * np.cumsum(counts)[:-1] / ratios.size  # at a threshold above each value except the highest
        left, at = min(((self._gap(c), k) for k, c in enumerate(curs)), default=(np.inf, 0))
        if self._gap(self.cur) > MAX_GAP or left > MAX_REMAINDER:
            if self.off_target:
                return threshold, self.cur
            raise UserError(
                f"{self.method} ended at a CUR of {self.cur:.1f} %, not {self.target:g} %: train for more rounds, set "
                "a target closer to it, or keep the router as it is with off_target=true"
            )
        if left > self._gap(self.cur) - 1e-9:
            return threshold, self.cur
        return float(values[at] + values[at + 1]) / 2, float(curs[at])
