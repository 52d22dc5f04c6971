"""The one verdict of a fleet's run, made as ``robustness merge`` makes it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustness import __version__
from robustness.fleet.run import Outcome
from robustness.fleet.tasks import Fleet
from robustness.report.facts import SCHEMA
from robustness.report.merge import merge, parse_shard


def verdict(
    fleet: Fleet, outcome: Outcome, *, policy: str | None, baseline: Path | None
) -> dict[str, Any]:
    """The report of the whole run.

    Args:
        fleet: what was asked.
        outcome: what came back.
        policy: the policy's file, as the user knows it; the nodes had a copy.
        baseline: likewise.

    Raises:
        ShardError: if the reports are not of one run: the nodes differ.
    """
    if not outcome.reports:
        return _nothing(fleet, outcome)
    named = {task.part.index: f"the report of {task}" for task in fleet.tasks}
    numbers = sorted(outcome.reports)
    sources = [named[number] for number in numbers]
    shards = [
        parse_shard(outcome.reports[number].encode(), source)
        for number, source in zip(numbers, sources, strict=True)
    ]
    facts = merge(shards, sources, problems=outcome.problems)
    return {**facts, "policy": policy, "baseline": None if baseline is None else str(baseline)}


def _nothing(fleet: Fleet, outcome: Outcome) -> dict[str, Any]:
    """A report that says only why there is no other."""
    return {
        "schema": SCHEMA,
        "robustness": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": 0.0,
        "partial": False,
        "problems": list(outcome.problems),
        "exit_status": 1,
        "passed": False,
        "merged": len(fleet.tasks),
        "checkpoints": [],
    }
