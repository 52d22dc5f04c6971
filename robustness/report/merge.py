"""One verdict from the reports of a run's shards."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from robustness.errors import ReportError, ShardError
from robustness.report.facts import SCHEMA, is_accepted
from robustness.report.saved import parsed
from robustness.store.documents import first_fault, read_document, shortened
from robustness.store.store import digest

OUTLIERS = "test_outliers_are_present"

Facts = dict[str, Any]
_Number = Annotated[int, Field(ge=1)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _Mark(_Loose):
    expired: bool
    expires: str
    reason: str


class _Check(_Loose):
    id: str
    check: str
    verdict: str
    expected_failure: _Mark | None
    dims: list[int]
    interval: list[float | str] | None
    ratio: float | str | None
    threshold: float | None
    passes: str | None
    text_blocks: int
    tokens: int
    exact: bool
    statement: str
    reason: str
    details: dict[str, Any]


class _Checkpoint(_Loose):
    label: str
    checks: list[_Check]
    perplexity: float | str | None
    perplexity_text_blocks: int


class _Shard(_Loose):
    index: _Number
    count: _Number
    plan: str
    expected: list[str]
    all: dict[str, list[str]]


class _Report(_Loose):
    schema_: int = Field(alias="schema")
    shard: _Shard
    partial: bool
    problems: list[str]
    exit_status: int
    duration_s: float
    started: str
    checkpoints: list[_Checkpoint]
    sha256: str


def sealed(facts: Mapping[str, Any]) -> Facts:
    """The report of a shard with its checksum."""
    return {**facts, "sha256": digest(dict(facts))}


def read_shard(file: Path) -> Facts:
    """Read the JSON report of a run with ``--robustness-shard``.

    Raises:
        ShardError: one sentence on why it cannot be read.
    """
    text = read_document(
        file, kind="report", name="the JSON reports of the shards", error=ShardError
    )
    return parse_shard(text, str(file))


def parse_shard(text: bytes, source: str) -> Facts:
    """The JSON report of a run with ``--robustness-shard``.

    Args:
        text: of the report.
        source: where it comes from, for messages.

    Raises:
        ShardError: one sentence on why it is none.
    """
    try:
        TypeAdapter(_Report).validate_json(text)
        facts: Facts = json.loads(text)
        json.dumps(facts, allow_nan=False)  # Python reads Infinity and 1e999; JSON has neither
    except ValidationError as error:
        fault = first_fault(error)
        raise ShardError(f"{source} is not the report of a shard: {fault}") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{source} cannot be read: {shortened(error)}") from None
    if facts["schema"] != SCHEMA:
        raise ShardError(f"{source} has schema {facts['schema']}, and this version reads {SCHEMA}")
    checksum = facts.pop("sha256")
    if checksum != digest(facts):
        raise ShardError(f"{source} was changed after it was written: its checksum does not match")
    found: Facts = _cleaned(facts)
    try:
        parsed(found, source)  # whatever reports will ask of it
    except ReportError as error:
        raise ShardError(str(error)) from None
    return found


def merge(
    shards: Sequence[Facts], sources: Sequence[str], *, problems: Sequence[str] = ()
) -> Facts:
    """The report of the whole run.

    Args:
        shards: reports by :func:`read_shard`.
        sources: their files, for messages.
        problems: what else is known to be wrong, such as why a shard is missing.

    Raises:
        ShardError: if they are of different runs, or one is there twice.
    """
    first = shards[0]
    for facts, source in zip(shards, sources, strict=True):
        for name in ("plan", "count", "all"):
            if facts["shard"][name] != first["shard"][name]:
                raise ShardError(
                    f"{source} is not of the same run as {sources[0]}: another "
                    f"{'number of shards' if name == 'count' else 'plan'} (checkpoints, settings, "
                    "versions or checks)"
                )
    twice = [n for n, times in Counter(f["shard"]["index"] for f in shards).items() if times > 1]
    if twice:
        raise ShardError(f"shard {twice[0]}/{first['shard']['count']} is there twice")
    records = _records(shards)
    found = [*problems, *_missing(shards, records), *_problems(shards), *_not_accounted(records)]
    found += _unexpected_passes(first["shard"]["all"], records)
    refused = [name for name, record in records.items() if not is_accepted(record)]
    passed = not found and not refused and bool(records)
    return {
        **{key: value for key, value in first.items() if key != "shard"},
        "started": min(facts["started"] for facts in shards),
        "duration_s": round(sum(facts["duration_s"] for facts in shards), 3),
        "partial": False,
        "problems": found,
        "exit_status": 0 if passed else 1,
        "passed": passed,
        "merged": first["shard"]["count"],
        "command": _commands(shards),
        "checkpoints": _checkpoints(shards, first["shard"]["all"], records),
    }


def _commands(shards: Sequence[Facts]) -> str | None:
    """The shards' command lines, one below the other."""
    return "\n".join(str(facts["command"]) for facts in shards if facts.get("command")) or None


def _records(shards: Sequence[Facts]) -> dict[str, Facts]:
    """Decided checks by test name; a check that two shards decided is refused."""
    found: dict[str, Facts] = {}
    for facts in shards:
        expected = set(facts["shard"]["expected"])
        for checkpoint in facts["checkpoints"]:
            for record in checkpoint["checks"]:
                name = record["id"].partition("::")[2]
                if name in found or name not in expected:
                    raise ShardError(f"{name} was decided by a shard that it is not of")
                found[name] = {**record, "label": checkpoint["label"]}
    return found


def _missing(shards: Sequence[Facts], records: Mapping[str, Facts]) -> list[str]:
    count = shards[0]["shard"]["count"]
    there = {facts["shard"]["index"] for facts in shards}
    found = [f"shard {n}/{count} is missing" for n in range(1, count + 1) if n not in there]
    names = [name for group in shards[0]["shard"]["all"].values() for name in group]
    return found + [f"{name} has no verdict" for name in names if name not in records]


def _problems(shards: Sequence[Facts]) -> list[str]:
    found = []
    for facts in shards:
        name = f"shard {facts['shard']['index']}/{facts['shard']['count']}"
        found += [f"{name}: {problem}" for problem in facts["problems"]]
        checks = [check for point in facts["checkpoints"] for check in point["checks"]]
        if facts["exit_status"] and not facts["problems"] and all(map(is_accepted, checks)):
            found.append(f"{name} ended with exit status {facts['exit_status']}")
    return found


def _not_accounted(records: Mapping[str, Facts]) -> list[str]:
    accounted = {r["label"] for r in records.values() if r["check"] == OUTLIERS}
    return [
        f"{name} is not applicable, but {OUTLIERS} gave no verdict"
        for name, record in records.items()
        if record["verdict"] == "not applicable" and record["label"] not in accounted
    ]


def _unexpected_passes(whole: Mapping[str, list[str]], records: Mapping[str, Facts]) -> list[str]:
    marks: dict[tuple[str, str], list[str]] = {}
    for label, names in whole.items():
        for name in names:
            record = records.get(name)
            mark = record and record["expected_failure"]
            if record and mark and not mark["expired"]:
                marks.setdefault((label, record["check"]), []).append(record["verdict"])
    return [
        f"{test} of {label} is expected to fail, but passed: take the mark out of the policy, "
        "where it would hide the next failure"
        for (label, test), verdicts in marks.items()
        if set(verdicts) <= {"pass", "not applicable"}
    ]


def _checkpoints(
    shards: Sequence[Facts], whole: Mapping[str, list[str]], records: Mapping[str, Facts]
) -> list[Facts]:
    found = []
    for label, names in whole.items():
        parts = [p for facts in shards for p in facts["checkpoints"] if p["label"] == label]
        if parts:
            widest = max(parts, key=lambda part: part["perplexity_text_blocks"])
            decided = [records[name] for name in names if name in records]
            checks = [{k: v for k, v in record.items() if k != "label"} for record in decided]
            shown: list[Facts] = next(
                (part["examples"] for part in parts if part.get("examples")), []
            )
            whole_part = {**widest, "examples": shown, "checks": checks}
            if tasks := [part["task"] for part in parts if part.get("task")]:
                whole_part["task"] = max(tasks, key=lambda task: task["score_examples"])
            found.append(whole_part)
    return found


def _cleaned(value: Any) -> Any:
    """Text without what a terminal would obey."""
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _cleaned(item) for key, item in value.items()}
    return value


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
