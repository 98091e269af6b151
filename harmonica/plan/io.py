"""Plan and router files: safetensors, with protocol and origin as JSON in the metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.plan.origin import Origin, Protocol, from_json, split_version_1, to_json
from harmonica.utils import UserError, write_atomic

VERSION = 2


def _refused(constant: str):
    """NaN and infinite numbers, which are no JSON."""
    raise ValueError(f"it has {constant}")


def write_tables(path: str | Path, kind: str, tables: dict[str, np.ndarray], protocol: Protocol, origin: Origin):
    """Write the arrays of a `kind` ("plan" or "router"), atomically."""
    from safetensors.numpy import save

    about = {k: json.dumps(v, sort_keys=True) for k, v in to_json(protocol, origin).items()}
    write_atomic(path, save(tables, metadata={"format": f"harmonica-{kind}-{VERSION}", **about}))


def read_tables(path: str | Path, kind: str, dtypes: dict[str, Any]) -> tuple[dict[str, np.ndarray], Protocol, Origin]:
    """Arrays, protocol and origin of a file that `write_tables` wrote, in this version or an older one.

    Raises UserError if the file is missing, damaged or of another kind.
    """
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
        raise UserError(f"{path} is not a complete safetensors file ({e}); run `harmonica plan` again") from None
    name, _, version = metadata.get("format", "").rpartition("-")
    if name != f"harmonica-{kind}" or not version.isdecimal():
        raise UserError(f"{path} is not a {kind} file: the format in its metadata is {metadata.get('format')!r}")
    if int(version) > VERSION:
        raise UserError(f"{path} has format version {version}; this version of harmonica reads up to {VERSION}")
    if {k: v.dtype for k, v in tables.items()} != {k: np.dtype(v) for k, v in dtypes.items()}:
        raise UserError(f"{path} contains {sorted(tables)}, not a {kind}'s {sorted(dtypes)}")
    try:
        about = {k: json.loads(metadata[k], parse_constant=_refused) for k in ("protocol", "origin") if k in metadata}
        protocol, origin = from_json(split_version_1(about["origin"]) if version == "1" else about)
    except (ValueError, jsonschema.ValidationError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{path}: the origin in its metadata is damaged ({str(e).splitlines()[0]})") from None
    return tables, protocol, origin
