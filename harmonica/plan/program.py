"""A plan as operations: what the executor does at each branch it reaches, and which outputs stay cached between
steps."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

COMPUTE = 0  # run the branch
REUSE = 1  # take the branch's cached output, before the gate; the gate is this step's own
SPAN_DELTA = 2  # a run of these adds the run's cached out - in (Δ-DiT)
SPAN_OUTPUT = 3  # a run of these continues from the run's cached output (DeepCache)
SPAN_TIMED = 4  # the same, but time and label tokens add their cached change (Faster Diffusion on a U-ViT)

Key = tuple[int, int, int]  # of a cached tensor: action, first branch, the branch after the last


class Op(NamedTuple):
    """What the executor does at one branch."""

    action: int
    stop: int  # the branch it continues with
    store: bool = False  # cache the computed output: a later step reuses it
    drop: bool = False  # last use of the cached tensor
    opens: tuple[tuple[int, int], ...] = ()  # spans that begin here and are cached at this step
    closes: tuple[Key, ...] = ()  # spans that end at `stop`, to be cached


Ops = dict[int, Op]  # of one step, by the branch index at which the executor arrives


def build_program(actions: np.ndarray) -> tuple[Ops, ...]:
    """The operations of every step for actions uint8 (steps, branches).

    An output is cached only if a later step reuses that very output, and dropped after its last use.
    """
    ops = [dict(_row_ops(row)) for row in actions]
    for s, row in enumerate(ops):
        for start, op in list(row.items()):
            if op.action == COMPUTE:
                continue
            key = (op.action, start, op.stop)
            source = _source(ops, s, key)
            first = ops[source][start]
            if op.action == REUSE:
                ops[source][start] = first._replace(store=True)
            else:
                if (start, op.stop) not in first.opens:
                    ops[source][start] = first._replace(opens=first.opens + ((start, op.stop),))
                at = next(i for i, o in ops[source].items() if o.stop == op.stop)
                if key not in ops[source][at].closes:
                    ops[source][at] = ops[source][at]._replace(closes=ops[source][at].closes + (key,))
            if not _used_again(ops, s, key):
                row[start] = op._replace(drop=True)
    return tuple(ops)


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


def independent_steps(program: tuple[Ops, ...], s: int) -> range:
    """The steps from `s` on whose outputs do not depend on the latents: those in a row that begin with the same reused
    timed span, where only time and label tokens differ, and compute the rest. Otherwise only `s`."""
    stop = s
    while stop < len(program) and _independent(program[stop], program[s]):
        stop += 1
    return range(s, max(stop, s + 1))


def _independent(ops: Ops, first: Ops) -> bool:
    head, *rest = (op for _, op in sorted(ops.items()))
    quiet = all(op.action == COMPUTE and not (op.store or op.opens or op.closes) for op in rest)
    return head.action == SPAN_TIMED and head.stop == first[0].stop and quiet and bool(rest)


def _row_ops(row: np.ndarray) -> Iterable[tuple[int, Op]]:
    """Split one row into operations: one per branch, one per run of equal span actions."""
    i = 0
    while i < len(row):
        action, stop = int(row[i]), i + 1
        if action in (SPAN_DELTA, SPAN_OUTPUT, SPAN_TIMED):
            while stop < len(row) and row[stop] == action:
                stop += 1
        yield i, Op(action, stop)
        i = stop


def _source(ops: list[Ops], s: int, key: Key) -> int:
    """The step whose output a reuse at step `s` takes: the latest that computed it. Step 0 computes everything."""
    return next(p for p in range(s - 1, -1, -1) if _provides(ops[p], key))


def _used_again(ops: list[Ops], s: int, key: Key) -> bool:
    """Whether a step after `s` reuses the cached tensor before it is refreshed."""
    for later in ops[s + 1 :]:
        op = later.get(key[1])
        if op is not None and (op.action, key[1], op.stop) == key:
            return True
        if _provides(later, key):
            return False
    return False


def _provides(ops: Ops, key: Key) -> bool:
    """Whether a step refreshes the cached tensor: it computes the branch, or passes through the full span."""
    action, start, stop = key
    if action == REUSE:
        return start in ops and ops[start].action == COMPUTE
    return all(i in ops and ops[i].action in (COMPUTE, REUSE) for i in range(start, stop))
