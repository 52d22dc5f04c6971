"""One verdict from the reports of a run's shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustness.errors import ShardError
from robustness.report.json_document import SEAL, parsed, validated
from robustness.report.results import (
    CheckpointResult,
    CheckResult,
    Report,
    Shard,
    presence_test,
    unaccounted,
)
from robustness.store.documents import read_document
from robustness.store.store import digest

Decided = Mapping[str, Mapping[str, CheckResult]]
"""Checks by the label of their checkpoint and the name of their test."""


def read_shard(file: Path) -> Report:
    """Read the JSON report of a run with ``--robustness-shard``, or raise a ShardError."""
    text = read_document(
        file, kind="report", name="the JSON reports of the shards", error=ShardError
    )
    return parse_shard(text, str(file))


def parse_shard(text: bytes, source: str) -> Report:
    """Read it from its text, which ``source`` names in messages, or raise a ShardError."""
    report = parsed(text, source, error=ShardError)
    for name, kind in (("shard", dict), (SEAL, str)):
        if not isinstance(report.get(name), kind):
            raise ShardError(f"{source} is not the report of a shard: {name} is missing")
    checksum: str = report.pop(SEAL)
    actual: str | None = None
    with suppress(RecursionError):
        actual = digest(report)
    if checksum != actual:
        raise ShardError(f"{source} was changed after it was written: its checksum does not match")
    return validated(_cleaned(report), source, error=ShardError)


def merge(
    shards: Sequence[Report], sources: Sequence[str], *, problems: Sequence[str] = ()
) -> Report:
    """Return the report of the whole run.

    Args:
        shards: reports by :func:`read_shard`.
        sources: their files, for messages.
        problems: what else is known to be wrong, such as why a shard is missing.

    Raises:
        ShardError: if they are of different runs, or one is there twice.
    """
    whole = _of_one_run(shards, sources)
    decided = _decided(shards)
    checks = [check for group in decided.values() for check in group.values()]
    all_problems = (
        *problems,
        *_missing(whole, shards, decided),
        *_problems(shards),
        *(
            f"{check.test_name} is not applicable, but {presence_test()} gave no verdict"
            for group in decided.values()
            for check in unaccounted(tuple(group.values()))
        ),
        *_unexpected_passes(whole, decided),
    )
    passed = not all_problems and bool(checks) and all(check.is_accepted for check in checks)
    return shards[0].model_copy(
        update={
            "started": min(shard.started for shard in shards),
            "duration_s": round(sum(shard.duration_s for shard in shards), 3),
            "command": "\n".join(s.command for s in shards if s.command) or None,
            "partial": False,
            "problems": all_problems,
            "exit_status": 0 if passed else 1,
            "passed": passed,
            "shard": None,
            "merged": whole.count,
            "checkpoints": _checkpoints(whole, shards, decided),
        }
    )


def _of_one_run(shards: Sequence[Report], sources: Sequence[str]) -> Shard:
    """Return what the first says of the whole, if all say the same and each is there once."""
    first, parts = _part(shards[0]), list(map(_part, shards))
    for part, source in zip(parts, sources, strict=True):
        other = "plan" if (part.plan, part.all) != (first.plan, first.all) else ""
        other = "number of shards" if part.count != first.count and not other else other
        if other:
            raise ShardError(
                f"{source} is not of the same run as {sources[0]}: another {other} (checkpoints, "
                "settings, versions or checks)"
            )
    twice = [n for n, times in Counter(part.index for part in parts).items() if times > 1]
    if twice:
        raise ShardError(f"shard {twice[0]}/{first.count} is there twice")
    return first


def _part(report: Report) -> Shard:
    if report.shard is None:
        raise ShardError("a report that is of no shard cannot be merged")
    return report.shard


def _decided(shards: Sequence[Report]) -> Decided:
    decided: dict[str, dict[str, CheckResult]] = {}
    names: set[str] = set()
    for shard in shards:
        expected = set(_part(shard).expected)
        for checkpoint in shard.checkpoints:
            for check in checkpoint.checks:
                name = check.test_name
                if name in names or name not in expected:
                    raise ShardError(f"{name} was decided by a shard that it is not of")
                names.add(name)
                decided.setdefault(checkpoint.label, {})[name] = check
    return decided


def _missing(whole: Shard, shards: Sequence[Report], decided: Decided) -> list[str]:
    there = {_part(shard).index for shard in shards}
    gone = [n for n in range(1, whole.count + 1) if n not in there]
    names = {name for group in decided.values() for name in group}
    undecided = [name for group in whole.all.values() for name in group if name not in names]
    return [
        *(f"shard {n}/{whole.count} is missing" for n in gone),
        *(f"{name} has no verdict" for name in undecided),
    ]


def _problems(shards: Sequence[Report]) -> list[str]:
    problems = []
    for shard in shards:
        problems += [f"shard {shard.shard}: {problem}" for problem in shard.problems]
        told = shard.problems or any(checkpoint.refused for checkpoint in shard.checkpoints)
        if shard.exit_status and not told:
            problems.append(f"shard {shard.shard} ended with exit status {shard.exit_status}")
    return problems


def _unexpected_passes(whole: Shard, decided: Decided) -> list[str]:
    marked: dict[tuple[str, str], set[str]] = {}
    for label in whole.all:
        for check in decided.get(label, {}).values():
            if check.expected_failure is not None and not check.expected_failure.expired:
                marked.setdefault((label, check.check), set()).add(check.outcome)
    return [
        f"test_{name} of {label} is expected to fail, but passed: take the mark out of the policy, "
        "where it would hide the next failure"
        for (label, name), outcomes in marked.items()
        if outcomes <= {"pass", "not applicable"}
    ]


def _checkpoints(
    whole: Shard, shards: Sequence[Report], decided: Decided
) -> tuple[CheckpointResult, ...]:
    """Return every checkpoint of the whole that some shard has, with all its checks."""
    parts = {part.label: part for shard in reversed(shards) for part in shard.checkpoints}
    return tuple(
        parts[label].with_checks(
            decided[label][name] for name in names if name in decided.get(label, {})
        )
        for label, names in whole.all.items()
        if label in parts
    )


def _cleaned(value: Any) -> Any:
    """Return text without what a terminal would obey."""
    if isinstance(value, str):
        unseen = "\N{REPLACEMENT CHARACTER}"
        return "".join(c if c.isprintable() or c == "\n" else unseen for c in value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return value
