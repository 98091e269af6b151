"""Search for key steps, those at which a plan computes all branches; everything between them is forecast.

At the other steps the stream after the last branch, every branch's output, or the output of the model is extrapolated
from the last key steps by a polynomial. For a budget in MACs, the key steps are those with which the final latents of a
few images come closest to the uncached run's, or to the converged solution's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal

import numpy as np
from tqdm import tqdm

from harmonica.plan import COMPUTE, FORECAST, OUTPUT_FORECAST, SPAN_FORECAST, Plan, Protocol, count_at
from harmonica.plan.forecast import extrapolation
from harmonica.samplers import make_sampler
from harmonica.training.key_search import BENDS, Keys, search, starts
from harmonica.training.settings import Work
from harmonica.utils import UserError, setting

FORMS = {"last": SPAN_FORECAST, "branches": FORECAST, "output": OUTPUT_FORECAST}
BEST = ("last", "branches")  # those of which the best is searched; docs/forecast.md compares the third
FORECASTS = "Forecasts, this suite's own"  # the heading of the methods built on the search, in tables
ORDERS = (0, 1, 2, 3)  # of extrapolation; 0 is reuse
ROUNDS = 2  # forms and orders that are searched, those with the best starts
NOTED = 8  # sets of key steps that a plan's origin names, for methods that go on from the search


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search."""

    target_cur: float = setting(
        50.0, "percent; the budget is the MACs of reusing as much of every kind of branch", above=0, at_most=100
    )
    against: Literal["uncached", "converged"] = setting("uncached", "what final latents are to come close to")
    form: Literal["last", "branches", "output", "best"] = setting(
        "best", "what is forecast: the last block's output, each branch's, the model's, or the best of the first two"
    )
    order: int | None = setting(
        None, "degree of the extrapolation, 0 is reuse; default: the best of 0 to 3", at_least=0, at_most=3
    )
    images: int = setting(8, "that judge a set of key steps", at_least=1, at_most=1024)
    evaluations: int = setting(160, "sets of key steps that are judged", at_least=1, at_most=100_000)
    solver: str | None = setting(None, "sampler of the plan; default: the experiment's")
    grid: int | None = setting(None, "steps of the plan; default: the experiment's", at_least=1, at_most=1000)

    def check(self, protocol: Protocol) -> None:
        """Raise UserError for an unknown sampler, or a number of steps that it cannot have."""
        if self.fine_grid:
            make_sampler(self.plan_sampler(protocol), self.grid or protocol.steps)

    @property
    def fine_grid(self) -> str:
        """The grid in words, if it is not the experiment's."""
        return f"{self.grid or 'all'} steps of {self.solver or 'its sampler'}" if self.solver or self.grid else ""

    @property
    def only_form(self) -> str:
        """The form in words, if it is the only one that is searched."""
        return {"last": "last block", "branches": "every branch", "output": "output only", "best": ""}[self.form]

    @property
    def forms(self) -> Sequence[str]:
        """The forms that are searched."""
        return BEST if self.form == "best" else (self.form,)

    def plan_sampler(self, protocol: Protocol) -> str:
        """The sampler of the plan."""
        return self.solver or protocol.sampler

    def work(self, protocol: Protocol, scale: str) -> Work:
        """What a search computes."""
        return Work(evaluations=self.judged * self.images * self.key_steps(protocol), batch=self.images)

    @property
    def judged(self) -> int:
        """Sets of key steps that are judged, those that the search begins with among them."""
        combinations = len(self.forms) * (len(ORDERS) if self.order is None else 1)
        return self.evaluations + combinations * 2 * len(BENDS)

    def key_steps(self, protocol: Protocol) -> float:
        """Key steps that the budget pays for, about."""
        return max(1.0, protocol.steps * (1 - self.target_cur / 100))


def searched(task, settings: SearchSettings, count: int = 1) -> list[Plan]:
    """The plans of the best sets of key steps that were judged in the search, the best first, at most `count`.

    Raises UserError for a budget, a sampler or a grid that cannot be, or if no set gives finite latents.
    """
    protocol = _protocol(task, settings)
    stages = task.stages(protocol.sampler, protocol.steps)
    loop = task.closed_loop(protocol, settings.images, settings.against)
    rng = np.random.default_rng(task.seed)

    bar = tqdm(total=settings.judged, desc=f"{task.name}: plans", mininterval=5)

    def value(form: str, order: int, keys: Keys) -> float:
        bar.update()
        return loop.value(_plan(task, protocol, keys, form, order))

    begun: list[tuple[float, str, int, Keys]] = []
    for form in settings.forms:
        number = _count(task, settings, protocol, form)
        for order in ORDERS if settings.order is None else [settings.order]:
            judged = {keys: value(form, order, keys) for keys in starts(protocol.steps, number, stages)}
            keys = max(judged, key=lambda k: judged[k])
            begun.append((judged[keys], form, order, keys))
    begun.sort(key=lambda x: -x[0])
    found: list[tuple[float, str, int, Keys]] = []
    for _, form, order, keys in begun[:ROUNDS]:
        known = search(partial(value, form, order), [keys], protocol.steps, rng, settings.evaluations // ROUNDS)
        found += [(db, form, order, keys) for keys, db in known.items()]
    bar.close()
    ranked = [(round(db, 2), form, order, keys) for db, form, order, keys in sorted(found, reverse=True)]
    ranked = [x for x in ranked if np.isfinite(x[0])]
    if not ranked:
        raise UserError(f"{task.name}: no set of key steps that was judged gives images with finite numbers")
    plans = _plans(task, protocol, settings, ranked[:count])
    following = [[db, form, order, list(map(int, keys))] for db, form, order, keys in ranked[1:NOTED]]
    return [plans[0].with_origin(notes=plans[0].origin.notes | {"following": following}), *plans[1:]]


def found_before(task, settings: SearchSettings, source: Plan, count: int) -> list[Plan]:
    """The same, at most NOTED of them, from the plan of an earlier search.

    Raises UserError if that had other settings, another seed, or was of another model.
    """
    own = {f.name: getattr(settings, f.name) for f in fields(SearchSettings)} | {"seed": task.seed}
    theirs = source.origin.settings | {"seed": source.origin.seed}
    for name, value in own.items():
        if theirs.get(name) != value:
            raise UserError(f"the plan to start from was searched with {name} = {theirs.get(name)}, not {value}")
    protocol = _protocol(task, settings)
    source.check_fits(model=protocol.model, sampler=protocol.sampler, steps=protocol.steps, layout=task.layout)
    notes = source.origin.notes
    if "following" not in notes:
        raise UserError("an earlier version searched the plan to start from: make it again")
    first = (notes["dB"], notes["form"], notes["order"], tuple(notes["keys"]))
    more = [(db, form, order, tuple(keys)) for db, form, order, keys in notes["following"]]
    return _plans(task, protocol, settings, [first, *more][:count])


def _plans(
    task, protocol: Protocol, settings: SearchSettings, ranked: list[tuple[float, str, int, Keys]]
) -> list[Plan]:
    return [_plan(task, protocol, keys, form, n, dB=db, against=settings.against) for db, form, n, keys in ranked]


def _protocol(task, settings: SearchSettings) -> Protocol:
    """What the plan runs, which may be a finer grid of another sampler."""
    return replace(task.protocol, sampler=settings.plan_sampler(task.protocol), steps=settings.grid or task.steps)


def _count(task, settings: SearchSettings, protocol: Protocol, form: str) -> int:
    """The number of key steps whose MACs come closest to the budget."""
    counts = range(1, protocol.steps + 1)
    return count_at(
        settings.target_cur, task.steps, task.layout, counts,
        lambda n: _plan(task, protocol, tuple(range(n)), form, 1),
    )  # fmt: skip


def _plan(task, protocol: Protocol, keys: Keys, form: str, order: int, **notes) -> Plan:
    actions = np.full((protocol.steps, len(task.layout.branches)), FORMS[form], np.uint8)
    actions[list(keys)] = COMPUTE
    weights = extrapolation(actions, order)[:, :1]  # equal for all branches
    weights[list(keys)] = 0
    notes = {"keys": list(map(int, keys)), "form": form, "order": order, **notes}
    return Plan(actions, protocol, replace(task.origin, notes=notes), weights)
