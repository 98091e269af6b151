"""L²P: learned linear prediction of features (CVPR 2026, arXiv 2604.26365).

At every skipped step the features are a weighted sum of those of the last H computed steps, with one set of weights a
step for all features, fitted by least squares to a few recorded trajectories. `constrained` weights sum to 1. The
features are the last block's output, or with `lite: false` the outputs of all branches, relative to their size.
"""

from dataclasses import dataclass

import numpy as np

from harmonica.methods import CalibratedMethod, ScheduledForecast, Task, setting
from harmonica.plan import Plan


@dataclass(frozen=True, kw_only=True)
class L2P(CalibratedMethod, ScheduledForecast):
    title = "L²P"

    lite: bool = setting(True, "forecast the last block's output only")
    history: int = setting(3, "H, outputs that a forecast takes", at_least=1, at_most=4)
    constrained: bool = setting(True, "weights sum to 1")

    def label(self) -> str:
        return self.title + ("" if self.constrained else ", free")

    @property
    def outputs(self) -> int:
        return self.history

    def weigh(self, at, full):
        raise NotImplementedError("weights are fitted, see `make`")

    def make(self, task: Task) -> Plan:
        products = self._products(task)

        def fitted(full: list[int]):
            return lambda at, before: least_squares(products, at, before[-self.history :][::-1], self.constrained)

        return self.scheduled(task, fitted)

    def _products(self, task: Task) -> np.ndarray:
        """Inner products (steps, steps) of the features of all steps, summed over images."""
        recorded = task.record(self.images, ["streams"] if self.lite else ["branches"])
        if self.lite:
            x = recorded.streams[:, 1].flatten(1).double()
            return (x @ x.T).numpy()
        total = np.zeros((task.steps, task.steps))
        for i in range(len(task.layout.branches)):
            x = recorded.branches[0][i].new_empty(task.steps, recorded.branches[0][i].numel()).double()
            for s in range(task.steps):
                x[s] = recorded.branches[s][i].flatten()
            own = (x @ x.T).numpy()
            total += own / np.trace(own)
        return total


def least_squares(products: np.ndarray, at: int, sources: list[int], constrained: bool) -> np.ndarray:
    """Weights of the features at steps `sources` whose sum is closest to those at step `at`, from inner products
    (steps, steps); they sum to 1 if `constrained`."""
    gram, right = products[np.ix_(sources, sources)], products[sources, at]
    gram = gram + 1e-9 * np.trace(gram) * np.eye(len(sources))  # features of neighbouring steps are nearly parallel
    if not constrained:
        return np.linalg.solve(gram, right)
    ones = np.linalg.solve(gram, np.ones(len(sources)))
    free = np.linalg.solve(gram, right)
    return free + ones * (1 - free.sum()) / ones.sum()
