"""The plan: which branch is computed, reused or forecast, at every step.

Rows are in execution order: row 0 is the first and noisiest step (t = T-1 in the paper's index) and computes
everything.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harmonica.plan.branches import BranchLayout
from harmonica.plan.io import read_tables, write_tables
from harmonica.plan.origin import BY_HAND, Origin, Protocol
from harmonica.plan.program import COMPUTE, FORECASTS, OUTPUT_FORECAST, Ops, build_program
from harmonica.plan.rule import Rule, span_of
from harmonica.utils import UserError

MOST_WEIGHTS = 4  # outputs that a forecast may take: cached tensors of every branch


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions uint8 (steps, branches), the protocol to run them with, and their origin.

    `weights` float32 (steps, 1 or branches, J ≤ 4) are those of forecasts: the output of a branch, of a span or of
    the model is Σ_j weights[step, branch, j] · its j-th last output, the newest first. With one column they hold for
    all branches of a step. They are 0 where nothing is forecast; None without forecasts. With a `rule`, the table is
    what may be skipped, and what is skipped is decided while an image is made. Raises UserError if a plan is not
    executable.
    """

    actions: np.ndarray
    protocol: Protocol
    origin: Origin = BY_HAND
    weights: np.ndarray | None = None
    rule: Rule | None = None

    def __post_init__(self):
        a = np.ascontiguousarray(self.actions, dtype=np.uint8)
        a.flags.writeable = False
        object.__setattr__(self, "actions", a)
        if a.ndim != 2 or not a.size:
            raise UserError(f"a plan is a table of steps × branches, got an array of shape {a.shape}")
        if len(a) != self.protocol.steps:
            raise UserError(f"the plan has {len(a)} rows, but its protocol has {self.protocol.steps} steps")
        if a.max() > OUTPUT_FORECAST:
            raise UserError(f"unknown action {a.max()}: a newer version may have written this plan")
        if a[0].any():
            raise UserError("the first step of a plan must compute every branch: there is nothing to reuse yet")
        output = a == OUTPUT_FORECAST
        if (torn := output.any(1) & ~output.all(1)).any():
            raise UserError(f"step {int(torn.argmax())} forecasts the model's output, but not for all of its branches")
        forecast = np.isin(a, FORECASTS)
        if self.rule is not None:
            span_of(a)
            if self.protocol.prior_noise:
                raise UserError("a rule does not go together with prior noise")
        if self.weights is None:
            if forecast.any():
                raise UserError("the plan forecasts branches, but has no weights")
            return
        object.__setattr__(self, "weights", _checked_weights(self.weights, forecast))
        try:
            self.program  # noqa: B018  (made here, where forecasts can be refused)
        except IndexError as e:
            s, i = e.args
            raise UserError(f"step {s} forecasts branch {i} from more outputs than were computed before it") from None

    @property
    def steps(self) -> int:
        """T, the evaluations of the model."""
        return self.actions.shape[0]

    @property
    def branches(self) -> int:
        """Residual branches of the model."""
        return self.actions.shape[1]

    @property
    def cur(self) -> float:
        """Cache utilisation ratio in percent: reused or forecast branch evaluations / (steps · branches). Of a plan
        with a rule it is the largest possible."""
        return 100.0 * float((self.actions != COMPUTE).mean())

    @cached_property
    def program(self) -> tuple[Ops, ...]:
        """The operations of every step."""
        return build_program(self.actions, None if self.weights is None else self.weights != 0)

    def check_fixed(self, what: str) -> None:
        """Raise UserError if the plan has a rule: `what` needs a plan whose steps are known before it runs."""
        if self.rule is not None:
            raise UserError(
                f"the plan of {self.origin.method} decides at run time what it skips: it does not run as {what}, only "
                "with `harmonica sample`, `latency` and `drift`, and on diffusers' pipelines"
            )

    def check_layout(self, layout: BranchLayout) -> None:
        """Raise UserError unless the plan has as many branches as the model."""
        if self.branches != len(layout.branches):
            raise UserError(
                f"the plan has {self.branches} branches, but {layout.name} has {len(layout.branches)}: "
                f"it was made for {self.protocol.model}"
            )

    def check_fits(self, *, model: str, sampler: str, steps: int, layout: BranchLayout) -> None:
        """Raise UserError unless the plan was made for this model, sampler and number of steps."""
        for what, own, requested in (("model", self.protocol.model, model), ("sampler", self.protocol.sampler, sampler),
                                     ("number of steps", self.steps, steps)):  # fmt: skip
            if own != requested:
                raise UserError(f"the plan was made for {what} {own}, not {requested}; make one with `harmonica plan`")
        self.check_layout(layout)

    def save(self, path: str | Path) -> None:
        """Write a plan file, atomically."""
        tables = {"actions": self.actions} | ({} if self.weights is None else {"weights": self.weights})
        write_tables(path, "plan", tables, self.protocol, self.origin, self.rule)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan file. Raises UserError if it is missing, damaged, or not a plan."""
        tables, protocol, origin, rule = read_tables(path, "plan", {"actions": np.uint8}, {"weights": np.float32})
        try:
            return Plan(tables["actions"], protocol, origin, tables.get("weights"), rule)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None

    def with_protocol(self, **changes) -> "Plan":
        """The plan with these protocol fields."""
        return replace(self, protocol=replace(self.protocol, **changes))

    def with_origin(self, **changes) -> "Plan":
        """The plan with these origin fields."""
        return replace(self, origin=replace(self.origin, **changes))


def _checked_weights(weights: np.ndarray, forecast: np.ndarray) -> np.ndarray | None:
    """The weights with 0 where nothing is forecast; None if nothing is. `forecast` bool (steps, branches)."""
    w = np.array(weights, np.float32)
    steps, branches = forecast.shape
    if w.ndim != 3 or w.shape[0] != steps or w.shape[1] not in (1, branches) or not 1 <= w.shape[2] <= MOST_WEIGHTS:
        raise UserError(
            f"weights of forecasts are a table of {steps} steps × 1 or {branches} branches × 1 to {MOST_WEIGHTS} "
            f"outputs, got {w.shape}"
        )
    if not np.isfinite(w).all():
        raise UserError("the plan has weights that are not finite")
    used = forecast if w.shape[1] == branches else forecast.any(1, keepdims=True)
    w[~used] = 0
    lacking = used & ~(w != 0).any(axis=2)
    if lacking.any():
        s, i = np.argwhere(lacking)[0]
        raise UserError(f"step {s} forecasts branch {i} without a weight")
    w.flags.writeable = False
    return w if used.any() else None


def all_compute(protocol: Protocol, branches: int, origin: Origin = BY_HAND) -> Plan:
    """The plan of the uncached model."""
    return Plan(np.zeros((protocol.steps, branches), np.uint8), protocol, origin)
