"""The JSON report: written with a line per value, sealed, read back, or refused in a sentence."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from robustness.errors import ReportError, RobustnessError
from robustness.report.results import SCHEMA, Report
from robustness.store.documents import first_fault, read_document, shortened
from robustness.store.store import digest

SEAL = "sha256"


def render(report: Report) -> str:
    """Return the JSON report: a line for every value, and for every row of numbers."""
    return laid_out(as_json(report))


def laid_out(value: Any) -> str:
    """Write a value in JSON types, with a line for each value and for each row of numbers."""
    return _indented(value, "\n") + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """Return JSON types; the seal is there only if there is one."""
    document = report.model_dump(mode="json", by_alias=True)
    if document[SEAL] is None:
        del document[SEAL]
    return document


def sealed(report: Report) -> Report:
    """Return the report with its checksum, for those that travel between machines."""
    bare = report.model_copy(update={SEAL: None})
    return bare.model_copy(update={SEAL: digest(as_json(bare))})


def read_report(file: Path) -> Report:
    """Read a JSON report, or raise a ReportError that says in one sentence why that cannot be."""
    text = read_document(
        file, kind="report", name="what --robustness-json has written", error=ReportError
    )
    return validated(parsed(text, str(file), error=ReportError), str(file), error=ReportError)


def parsed(text: bytes, source: str, *, error: type[RobustnessError]) -> dict[str, Any]:
    """Return the JSON of a report of this schema; the rest of it may still be wrong.

    ``source`` is what it was read from, for messages; ``error`` is raised with one sentence.
    """
    try:
        document = json.loads(text, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as cause:
        raise error(f"{source} cannot be read: {shortened(cause)}") from None
    if not isinstance(document, dict):
        raise error(f"{source} is not the JSON report of a run")
    schema = document.get("schema")
    if type(schema) is int and schema != SCHEMA:
        how = "vet again with this version" if schema < SCHEMA else "read it with a newer version"
        raise error(
            f"{source} has schema {schema}, and this version reads schema {SCHEMA}: {how} of "
            "pytest-robustness"
        )
    return document


def validated(document: Mapping[str, Any], source: str, *, error: type[RobustnessError]) -> Report:
    """Return the report that JSON holds; the arguments are as of :func:`parsed`."""
    try:
        # As JSON: in Python's types, lists would be no tuples.
        return Report.model_validate_json(json.dumps(document))
    except ValidationError as cause:
        fault = first_fault(cause)
        raise error(f"{source} is not the JSON report of a run: {fault}") from None
    except RecursionError as cause:
        raise error(f"{source} cannot be read: {shortened(cause)}") from None


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number that a computer can hold")
    return value


def _indented(value: Any, line: str) -> str:
    """Return JSON whose lines begin with ``line``."""
    deeper = f"{line}  "
    if isinstance(value, Mapping) and value:
        items = (f"{json.dumps(str(key))}: {_indented(v, deeper)}" for key, v in value.items())
        return f"{{{deeper}{f',{deeper}'.join(items)}{line}}}"
    if isinstance(value, list | tuple) and value and not _is_row(value):
        return f"[{deeper}{f',{deeper}'.join(_indented(v, deeper) for v in value)}{line}]"
    return json.dumps(value, allow_nan=False)


def _is_row(items: Sequence[Any]) -> bool:
    """Tell whether these are numbers; infinities among them are text."""
    return any(isinstance(item, int | float) for item in items)
