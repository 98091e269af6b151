"""Results that one job writes and another reads, as JSON: every record is a dataclass with a schema, one reader and a
checksum of its content, so that a flipped bit or a file of another kind or version is one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

from harmonica.utils.errors import UserError
from harmonica.utils.files import read_json, write_json

CHECKSUM = "sha256"  # of the rest of the content


@dataclasses.dataclass(frozen=True)
class Record:
    """The base of JSON records. `kind` names what the file is in its errors, `properties` is the JSON schema of every
    field."""

    kind: ClassVar[str]
    properties: ClassVar[dict[str, Any]]

    def save(self, path: str | Path) -> None:
        """Write the record, atomically. Raises UserError, and writes nothing, if a number is not finite, or the content
        is not what `load` reads."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        try:
            json.dumps(own, allow_nan=False)
        except ValueError:
            raise UserError(
                f"{path} is not written: {self.kind} must have finite numbers, and this has others"
            ) from None
        content = stamped(own)
        self._check(path, {k: v for k, v in content.items() if k != CHECKSUM})
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record. Raises UserError if the file is missing, damaged, of another kind, or without a checksum."""
        content = read_stamped(path, cls.kind)
        cls._check(path, content)
        return cls(**content)

    @classmethod
    def _check(cls, path: str | Path, content: dict[str, Any]) -> None:
        import jsonschema

        schema = {"type": "object", "additionalProperties": False, "required": list(cls.properties),
                  "properties": cls.properties}  # fmt: skip
        try:
            jsonschema.validate(content, schema)
        except jsonschema.ValidationError as e:
            raise UserError(f"{path} is not {cls.kind} ({e.message[:200]})") from None


def stamped(content: dict[str, Any]) -> dict[str, Any]:
    """What `json` keeps of an object, with its checksum."""
    content = json.loads(json.dumps(content))
    return content | {CHECKSUM: _of_json(content)}


def read_stamped(path: str | Path, what: str) -> dict[str, Any]:
    """A file of `stamped` content, without the checksum. Raises UserError, which says `what` it is not, if it is
    missing, damaged or without one."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not {what}")
    if CHECKSUM not in content:
        raise UserError(f"{path} is not {what}, or an older version wrote it, without checksum: make it again")
    if content.pop(CHECKSUM) != _of_json(content):
        raise UserError(f"{path} is not {what} as it was written: its checksum differs; delete it and make it again")
    return content


def _of_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
