"""What users write or name: a policy's tables and JSON documents, refused in one sentence."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from robustness.errors import RobustnessError

MOST_BYTES = 256 * 1024**2
"""Of a document. A profile of 100,000 text blocks and 20 ablations has about 40 MB."""

_MOST_CHARACTERS = 200
"""Of what another library says."""


class StrictTable(BaseModel):
    """A table of a policy: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, serialize_by_alias=True)


class PlainRecord:
    """A dataclass that is stored, or travels to other processes, in plain JSON types."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; floats that are not finite stay floats."""
        plain: dict[str, Any] = json.loads(
            json.dumps(_adapter(cast("Any", type(self))).dump_python(self))
        )
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        record: Self = _adapter(cast("Any", cls)).validate_python(data)
        return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_document(file: Path, *, kind: str, name: str, error: type[RobustnessError]) -> bytes:
    """What a file that the user has named holds, if it can be a document of this kind at all.

    The error says in one sentence why not, and that ``name`` should have been named.
    """
    try:
        if not file.is_file():
            raise error(f"{file} is no file; name {name}")
        if (size := file.stat().st_size) > MOST_BYTES:
            raise error(
                f"{file} has {size / 1e6:.0f} MB, more than a {kind} may have "
                f"({MOST_BYTES / 1e6:.0f} MB)"
            )
        return file.read_bytes()
    except OSError as cause:
        raise error(f"{file} cannot be read: {cause.strerror or cause}") from None
    except ValueError as cause:  # of a path
        raise error(f"{file} cannot be read: {shortened(cause)}") from None


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a document, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    message = first["msg"].removeprefix("Value error, ")[:_MOST_CHARACTERS]
    return f"{place}: {message}" if place else message


def shortened(error: Exception) -> str:
    """What another library says, in so far as it has a place in a sentence."""
    return str(error)[:_MOST_CHARACTERS]
