"""The plan: which branch is computed and which is reused, at every step. A plan is a file; this module needs no torch.

Rows are in execution order: row 0 is the first and noisiest step (t = T-1 in the paper's index), and computes all.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harmonica.errors import UserError
from harmonica.provenance import write_whole
from harmonica.shape import Shape

COMPUTE = 0  # run the branch
REUSE = 1  # take the branch's stored output, before the gate; the gate is this step's own
SPAN_DELTA = 2  # a run of these: add the stored out - in of the whole run (Δ-DiT)
SPAN_OUTPUT = 3  # a run of these: go on from the stored output of the whole run (DeepCache)
SPAN_TIMED = 4  # the same, but the tokens of time and label go on from this step's (Faster Diffusion on a U-ViT)

FORMAT = "harmonica-plan-1"
_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
ORIGIN_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["model", "sampler", "steps", "cfg", "method"],
    "properties": {
        "model": _TEXT,
        "sampler": _TEXT,
        "steps": {"type": "integer", "minimum": 1},
        "cfg": _NUMBER,
        "method": _TEXT,
        "settings": {"type": "object"},
        "seed": {"type": "integer"},
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "cost": {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(
                ("training_s", "images", "updates", "rounds", "generation_passes", "peak_MB"), _NUMBER
            ),
        },
        "notes": {"type": "object"},
        "prior_noise": _NUMBER,
    },
}


@dataclass(frozen=True)
class Origin:
    """Where a plan or router came from: enough to make it again."""

    model: str
    sampler: str
    steps: int
    cfg: float
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    # of a training: training_s, images, updates of a row of logits, rounds, generation_passes (whole trajectories that
    # λ took), peak_MB (memory above that of the loaded model)
    cost: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # what the method found: β, threshold, loss
    prior_noise: float = 0.0  # share of the starting noise that is added again after each of the later steps


class Op(NamedTuple):
    """What the executor does when it stands before branch `start`."""

    action: int
    stop: int  # the branch it stands before afterwards
    store: bool = False  # keep the computed output: a later step reuses it
    drop: bool = False  # this was the last use of the stored tensor
    opens: tuple[tuple[int, int], ...] = ()  # spans that begin here and are stored at this step
    closes: tuple[tuple[int, int, int], ...] = ()  # (action, start, stop) of spans that end at `stop`, to be stored


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions uint8 (steps, branches) and their origin. Raises UserError for a table that cannot be executed."""

    actions: np.ndarray
    origin: Origin

    def __post_init__(self):
        a = np.ascontiguousarray(self.actions, dtype=np.uint8)
        a.flags.writeable = False
        object.__setattr__(self, "actions", a)
        if a.ndim != 2 or not a.size:
            raise UserError(f"a plan is a table of steps × branches, not an array of shape {a.shape}")
        if len(a) != self.origin.steps:
            raise UserError(f"the plan has {len(a)} rows but says it is for {self.origin.steps} steps")
        if a.max() > SPAN_TIMED:
            raise UserError(f"action {a.max()} is not known; a newer version may have written this plan")
        if a[0].any():
            raise UserError("the first step of a plan must compute every branch: there is nothing to reuse yet")

    @property
    def steps(self) -> int:
        return self.actions.shape[0]

    @property
    def branches(self) -> int:
        return self.actions.shape[1]

    @property
    def cur(self) -> float:
        """Cache utilisation ratio in percent: reused branch evaluations / (steps · branches)."""
        return 100.0 * float((self.actions != COMPUTE).mean())

    def macs(self, shape: Shape) -> float:
        """Multiply-accumulates of the whole run, all steps, for one image and one guidance half."""
        self._check_shape(shape)
        branches = ((self.actions == COMPUTE) @ shape.branch_macs).sum()
        joins = sum(target in ops for ops in self.program for _, target in shape.skips)
        return float(branches + joins * shape.skip_macs + self.steps * shape.other_macs + shape.once_macs)

    def theoretical_speedup(self, shape: Shape) -> float:
        """MACs of the uncached run of as many steps over those of the plan."""
        return (self.steps * shape.macs + shape.once_macs) / self.macs(shape)

    def cache_bytes(self, shape: Shape, batch: int = 1, itemsize: int = 4, guided: bool = True) -> int:
        """Peak bytes that the executor holds in its cache, for `batch` images."""
        self._check_shape(shape)
        peak = 0
        stored: set[tuple[int, int, int]] = set()
        skips: set[int] = set()
        carried = self.carried(shape)
        for s, ops in enumerate(self.program):
            counted = carried[s] | carried[s - 1] if s else carried[s]
            skips &= carried[s - 1] if s else set()
            for start, op in sorted(ops.items()):
                if start in counted:
                    skips.add(start)
                if op.drop:
                    stored.remove((op.action, start, op.stop))
                for key in [(REUSE, start, op.stop)] * op.store + list(op.closes):
                    stored.add(key)
                    peak = max(peak, len(stored) + len(skips))
        return peak * shape.stream_elements * batch * itemsize * (2 if guided else 1)

    def carried(self, shape: Shape) -> tuple[frozenset[int], ...]:
        """For every step, where the long skips begin that are kept after it: a later step joins them and does not come
        by their beginning itself."""
        after: list[frozenset[int]] = []
        wanted: set[int] = set()  # by the steps behind
        for ops in reversed(self.program):
            after.append(frozenset(wanted))
            joined = {source for source, target in shape.skips if target in ops}
            wanted = {k for k in wanted | joined if k not in ops}
        return tuple(reversed(after))

    @cached_property
    def program(self) -> tuple[dict[int, Op], ...]:
        """For every step, the operation at each branch index the executor comes to.

        A branch is stored only when a later step reuses that very output, and dropped after its last use.
        """
        ops = [dict(_row_ops(row)) for row in self.actions]
        for s, row in enumerate(ops):
            for start, op in list(row.items()):
                if op.action == COMPUTE:
                    continue
                key = (op.action, start, op.stop)
                source = self._source(ops, s, key)
                if op.action == REUSE:
                    ops[source][start] = ops[source][start]._replace(store=True)
                else:
                    first = ops[source][start]
                    if (start, op.stop) not in first.opens:
                        ops[source][start] = first._replace(opens=first.opens + ((start, op.stop),))
                    at = next(i for i, o in ops[source].items() if o.stop == op.stop)
                    if key not in ops[source][at].closes:
                        ops[source][at] = ops[source][at]._replace(closes=ops[source][at].closes + (key,))
                if not self._used_again(ops, s, key):
                    row[start] = op._replace(drop=True)
        return tuple(ops)

    def _source(self, ops: list[dict[int, Op]], s: int, key: tuple[int, int, int]) -> int:
        """The step whose output a reuse at step `s` takes: the latest that computed it. Step 0 computes everything."""
        return next(p for p in range(s - 1, -1, -1) if _provides(ops[p], key))

    def _used_again(self, ops: list[dict[int, Op]], s: int, key: tuple[int, int, int]) -> bool:
        for later in ops[s + 1 :]:
            op = later.get(key[1])
            if op is not None and (op.action, key[1], op.stop) == key:
                return True
            if _provides(later, key):
                return False
        return False

    def _check_shape(self, shape: Shape) -> None:
        if self.branches != len(shape.branches):
            raise UserError(
                f"the plan has {self.branches} branches but {shape.name} has {len(shape.branches)}: "
                f"it was made for {self.origin.model}"
            )

    def check_fits(self, *, model: str, sampler: str, steps: int, shape: Shape) -> None:
        """Raise UserError unless the plan was made for this model, sampler and number of steps."""
        for what, own, asked in (("model", self.origin.model, model), ("sampler", self.origin.sampler, sampler),
                                 ("number of steps", self.steps, steps)):  # fmt: skip
            if own != asked:
                raise UserError(f"the plan was made for {what} {own}, not {asked}; make one with `harmonica plan`")
        self._check_shape(shape)

    def save(self, path: str | Path) -> None:
        write_tables(path, FORMAT, {"actions": self.actions}, self.origin)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan file. Raises UserError for a missing, truncated or foreign file."""
        tables, origin = read_tables(path, FORMAT, "plan", {"actions": np.uint8})
        try:
            return Plan(tables["actions"], origin)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None

    def with_origin(self, **changes) -> "Plan":
        return Plan(self.actions, replace(self.origin, **changes))


def all_compute(origin: Origin, branches: int) -> Plan:
    return Plan(np.zeros((origin.steps, branches), np.uint8), origin)


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


def _provides(ops: dict[int, Op], key: tuple[int, int, int]) -> bool:
    """Whether a step refreshes the stored tensor `key`: it computes the branch, or passes through the whole span."""
    action, start, stop = key
    if action == REUSE:
        return start in ops and ops[start].action == COMPUTE
    return all(i in ops and ops[i].action in (COMPUTE, REUSE) for i in range(start, stop))


def write_tables(path: str | Path, fmt: str, tables: dict[str, np.ndarray], origin: Origin) -> None:
    """A safetensors file with the origin as JSON metadata; it takes its name only when it is whole."""
    from safetensors.numpy import save

    metadata = {"format": fmt, "origin": json.dumps(asdict(origin), sort_keys=True)}
    write_whole(path, save(tables, metadata=metadata))


def read_tables(path: str | Path, fmt: str, kind: str, dtypes: dict[str, Any]) -> tuple[dict[str, np.ndarray], Origin]:
    """Tables and origin of a file that `write_tables` wrote. Raises UserError for anything else."""
    import jsonschema
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `harmonica plan`")
    try:
        with safe_open(path, "numpy") as f:
            metadata = f.metadata() or {}
            tables = {k: f.get_tensor(k) for k in f.keys()}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a whole safetensors file ({e}); make it again with `harmonica plan`") from None
    if metadata.get("format") != fmt:
        raise UserError(f"{path} is not a {kind} file: its metadata says {metadata.get('format')!r}, not {fmt!r}")
    if {k: v.dtype for k, v in tables.items()} != {k: np.dtype(v) for k, v in dtypes.items()}:
        raise UserError(f"{path} holds {sorted(tables)}, not a {kind}'s {sorted(dtypes)}")
    try:
        origin = json.loads(metadata.get("origin", ""))
        jsonschema.validate(origin, ORIGIN_SCHEMA)
    except (json.JSONDecodeError, jsonschema.ValidationError) as e:
        raise UserError(f"{path}: the origin in its metadata is damaged ({str(e).splitlines()[0]})") from None
    return tables, Origin(**origin)
