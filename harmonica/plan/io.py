"""Plan and router files: safetensors, with protocol, origin and a checksum of all content in the metadata."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.plan.origin import Origin, Protocol, from_json, split_version_1, to_json
from harmonica.plan.rule import RULE_SCHEMA, Rule
from harmonica.utils import UserError, write_atomic
from harmonica.utils.arrays import of_arrays

# 1 had one record in place of protocol and origin, 2 no forecasts and no checksum, 3 no rules, 4 no pipelines
VERSION = 5
WITHOUT_RULE, WITHOUT_SCHEDULER = 3, 4  # what is written for those


def _refused(constant: str):
    """NaN and infinite numbers, which are no JSON."""
    raise ValueError(f"it has {constant}")


def write_tables(
    path: str | Path,
    kind: str,
    tables: dict[str, np.ndarray],
    protocol: Protocol,
    origin: Origin,
    rule: Rule | None = None,
) -> None:
    """Write the arrays of a `kind` ("plan" or "router"), atomically."""
    from safetensors.numpy import save

    records = to_json(protocol, origin) | ({"rule": rule.to_json()} if rule else {})
    about = {k: json.dumps(v, sort_keys=True) for k, v in records.items()}
    version = VERSION if protocol.scheduler else WITHOUT_SCHEDULER if rule else WITHOUT_RULE
    metadata = {
        "format": f"harmonica-{kind}-{version}",
        **about,
        "sha256": _checksum(tables, about),
    }
    write_atomic(path, _in_order(save(tables, metadata=metadata)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the entries of its header sorted, so that equal plans are equal files: the library writes
    metadata in the order of a hash table, which differs from run to run."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _checksum(tables: dict[str, np.ndarray], about: dict[str, str]) -> str:
    """Of all tables, and the texts of protocol and origin."""
    texts = np.frombuffer(json.dumps(sorted(about.items())).encode(), np.uint8)
    return of_arrays(tables | {"about": texts})


@contextmanager
def opened(path: Path, command: str) -> Iterator[Any]:
    """A safetensors file that `command` makes. Raises UserError if it is missing or damaged, also for what is read from
    it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `{command}`")
    try:
        with safe_open(path, "numpy") as f:
            yield f
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a complete safetensors file ({e}); run `{command}` again") from None


def read_tables(
    path: str | Path, kind: str, dtypes: dict[str, Any], optional: dict[str, Any] | None = None
) -> tuple[dict[str, np.ndarray], Protocol, Origin, Rule | None]:
    """Arrays, protocol, origin and rule of a file that `write_tables` wrote, in this version or an older one. `dtypes`
    are those of the arrays by name, `optional` those of arrays that it may have.

    Raises UserError if the file is missing, damaged or of another kind.
    """
    import jsonschema

    path = Path(path)
    with opened(path, "harmonica plan") as f:
        metadata = f.metadata() or {}
        tables = {k: f.get_tensor(k) for k in f.keys()}
    name, _, version = metadata.get("format", "").rpartition("-")
    if name != f"harmonica-{kind}" or not version.isdecimal():
        raise UserError(f"{path} is not a {kind} file: the format in its metadata is {metadata.get('format')!r}")
    if int(version) > VERSION:
        raise UserError(f"{path} has format version {version}; this version of harmonica reads up to {VERSION}")
    known = dtypes | (optional or {})
    if not set(dtypes) <= set(tables) <= set(known) or any(v.dtype != known[k] for k, v in tables.items()):
        raise UserError(f"{path} contains {sorted(tables)}, not a {kind}'s {sorted(dtypes)}")
    texts = {k: metadata[k] for k in ("protocol", "origin", "rule") if k in metadata}
    if (int(version) > 2 or "sha256" in metadata) and metadata.get("sha256") != _checksum(tables, texts):
        raise UserError(f"{path} is damaged: its content does not have the checksum it was written with")
    try:
        about = {k: json.loads(text, parse_constant=_refused) for k, text in texts.items()}
        protocol, origin = from_json(split_version_1(about["origin"]) if version == "1" else about)
        if "rule" in about:
            jsonschema.validate(about["rule"], RULE_SCHEMA)
    except (ValueError, jsonschema.ValidationError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{path}: the origin in its metadata is damaged ({str(e).splitlines()[0]})") from None
    try:
        rule = Rule(**about["rule"]) if "rule" in about else None
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    return tables, protocol, origin, rule
