"""A plan as operations: what the executor does at each branch it reaches, and which outputs stay cached between
steps."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

COMPUTE = 0  # run the branch
REUSE = 1  # take the branch's cached output, before the gate; the gate is this step's own
SPAN_DELTA = 2  # a run of these adds the run's cached out - in (Δ-DiT)
SPAN_OUTPUT = 3  # a run of these continues from the run's cached output (DeepCache)
SPAN_TIMED = 4  # the same, but time and label tokens add their cached change (Faster Diffusion on a U-ViT)
FORECAST = 5  # a weighted sum of the branch's last computed outputs; REUSE is the case of one weight, 1
SPAN_FORECAST = 6  # a run of these continues from a weighted sum of the run's last outputs
OUTPUT_FORECAST = 7  # of a whole step: a weighted sum of the model's last outputs, nothing is computed

SPANS = (SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED, SPAN_FORECAST, OUTPUT_FORECAST)
FORECASTS = (FORECAST, SPAN_FORECAST, OUTPUT_FORECAST)

Key = tuple[int, int, int, int]  # of a cached tensor: action, first branch, the branch after the last, age
History = tuple[int, int, int]  # a key without its age: the outputs of one branch (action REUSE), or of one span


class Keep(NamedTuple):
    """An output enters its history: those that are cached become one older, and it is cached if a later step uses it.
    Age 0 is the newest."""

    history: History
    store: bool
    older: tuple[int, ...] = ()  # ages of the cached ones


class Op(NamedTuple):
    """What the executor does at one branch."""

    action: int
    stop: int  # the branch it continues with
    ages: tuple[int, ...] = ()  # of the cached outputs that it takes
    drop: tuple[int, ...] = ()  # those of them that no later step takes
    keep: Keep | None = None  # of the computed output
    opens: tuple[tuple[int, int], ...] = ()  # spans that begin here and enter their history at this step
    closes: tuple[Keep, ...] = ()  # spans that end at `stop`

    @property
    def predicts(self) -> bool:
        """Whether the branch's output is taken from earlier ones: REUSE or FORECAST."""
        return self.action in (REUSE, FORECAST)


Ops = dict[int, Op]  # of one step, by the branch index at which the executor arrives


def build_program(actions: np.ndarray, used: np.ndarray | None = None) -> tuple[Ops, ...]:
    """The operations of every step for actions uint8 (steps, branches).

    `used` (steps, 1 or branches, J) tells which of its last J outputs a forecast takes, the newest first; it is needed
    if there are forecasts. An output is cached only if a later step takes that very output, and dropped after its last
    use. Raises IndexError, with step and branch, if a forecast takes more outputs than there are.
    """
    ops = [dict(row_ops(row)) for row in actions]
    uses: dict[History, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for s, row in enumerate(ops):
        for start, op in row.items():
            if op.action != COMPUTE:
                ages: tuple[int, ...] = (0,)
                if op.action in FORECASTS:
                    assert used is not None
                    ages = tuple(map(int, np.flatnonzero(used[s, start if used.shape[1] > 1 else 0])))
                uses[history(op.action, start, op.stop)].append((s, ages))
    for of, takes in uses.items():
        _connect(ops, of, takes, [s for s in range(len(ops)) if provides(ops[s], of)])
    return tuple(ops)


def _connect(ops: list[Ops], of: History, takes: list[tuple[int, tuple[int, ...]]], sources: list[int]) -> None:
    """Write into `ops` what is kept, taken and dropped of one history, whose outputs are those of steps `sources`."""
    kind, start, stop = of
    last: dict[int, int] = {}  # the last step that takes a source's output
    of_step = []
    for s, ages in takes:
        known = bisect_left(sources, s)
        if max(ages, default=0) >= known:
            raise IndexError(s, start)
        taken = [sources[known - 1 - age] for age in ages]
        last |= dict.fromkeys(taken, s)
        of_step.append((s, ages, taken))
    for s, ages, taken in of_step:
        drop = tuple(age for age, source in zip(ages, taken, strict=True) if last[source] == s)
        ops[s][start] = ops[s][start]._replace(ages=ages, drop=drop)
    for k, s in enumerate(sources):
        older = tuple(k - 1 - j for j in range(k - 1, -1, -1) if last.get(sources[j], -1) > s)
        if s not in last and not older:
            continue
        keep = Keep(of, s in last, older)
        if kind == REUSE:
            ops[s][start] = ops[s][start]._replace(keep=keep)
            continue
        first = ops[s][start]
        if (start, stop) not in first.opens and kind != OUTPUT_FORECAST:
            ops[s][start] = first._replace(opens=first.opens + ((start, stop),))
        at = next(i for i, o in ops[s].items() if o.stop == stop)
        ops[s][at] = ops[s][at]._replace(closes=ops[s][at].closes + (keep,))


def carried_skips(program: tuple[Ops, ...], skips: tuple[tuple[int, int], ...]) -> tuple[frozenset[int], ...]:
    """For every step, the starting branches of the long skips kept after it: a later step joins them without
    reaching their start itself. `skips` are (start, join) pairs of branch indices."""
    after: list[frozenset[int]] = []
    needed: set[int] = set()  # by later steps
    for ops in reversed(program):
        after.append(frozenset(needed))
        joined = {source for source, target in skips if target in ops}
        needed = {k for k in needed | joined if k not in ops}
    return tuple(reversed(after))


def skips_stream(ops: Ops, branches: int) -> bool:
    """Whether a step takes the stream after all branches from the cache: then nothing is embedded or gated."""
    first = ops[0]
    return first.action in (SPAN_OUTPUT, SPAN_FORECAST) and first.stop == branches


def skips_model(ops: Ops) -> bool:
    """Whether a step takes the model's output from the cache: then nothing is computed, the head neither."""
    return ops[0].action == OUTPUT_FORECAST


def live_keys(program: tuple[Ops, ...]) -> list[frozenset[Key]]:
    """The tensors that are cached before every step, since it or a later one takes them; and after the last, none."""
    before: list[frozenset[Key]] = []
    keys: set[Key] = set()
    for ops in program:
        before.append(frozenset(keys))
        for start, op in sorted(ops.items()):
            keys -= {(*history(op.action, start, op.stop), age) for age in op.drop}
            for keep in ((op.keep,) if op.keep else ()) + op.closes:
                keys -= {(*keep.history, age) for age in keep.older}
                keys |= {(*keep.history, age + 1) for age in keep.older}
                keys |= {(*keep.history, 0)} if keep.store else set()
    return [*before, frozenset(keys)]


def independent_steps(program: tuple[Ops, ...], s: int) -> range:
    """The steps from `s` on whose outputs do not depend on the latents: those in a row that begin with the same reused
    timed span, where only time and label tokens differ, and compute the rest. Otherwise only `s`."""
    stop = s
    while stop < len(program) and _independent(program[stop], program[s]):
        stop += 1
    return range(s, max(stop, s + 1))


def _independent(ops: Ops, first: Ops) -> bool:
    head, *rest = (op for _, op in sorted(ops.items()))
    quiet = all(op.action == COMPUTE and not (op.keep or op.opens or op.closes) for op in rest)
    return head.action == SPAN_TIMED and head.stop == first[0].stop and quiet and bool(rest)


def row_ops(row: np.ndarray) -> Iterable[tuple[int, Op]]:
    """Split one row into operations: one per branch, one per run of equal span actions."""
    i = 0
    while i < len(row):
        action, stop = int(row[i]), i + 1
        if action in SPANS:
            while stop < len(row) and row[stop] == action:
                stop += 1
        yield i, Op(action, stop)
        i = stop


def history(action: int, start: int, stop: int) -> History:
    """The history that an action takes outputs of."""
    return REUSE if action == FORECAST else action, start, stop


def provides(ops: Ops, of: History) -> bool:
    """Whether a step gives the history a new output: it computes the branch, passes through the full span, or ends with
    the model's head."""
    action, start, stop = of
    if action == REUSE:
        return start in ops and ops[start].action == COMPUTE
    if action == OUTPUT_FORECAST:
        return not skips_model(ops)
    return all(i in ops and ops[i].action not in SPANS for i in range(start, stop))
