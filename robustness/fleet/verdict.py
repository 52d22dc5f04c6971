"""The one verdict of a fleet's run, made as ``robustness merge`` makes it."""

from datetime import UTC, datetime
from pathlib import Path

from robustness import __version__
from robustness.fleet.run import Outcome
from robustness.fleet.tasks import Fleet
from robustness.report.merge import merge, parse_shard
from robustness.report.results import SCHEMA, Report


def verdict(
    fleet: Fleet,
    outcome: Outcome,
    *,
    confidence: float,
    policy: str | None,
    baseline: Path | None,
) -> Report:
    """The report of the whole run.

    Args:
        fleet: what was asked.
        outcome: what came back.
        confidence: that was asked for.
        policy: the policy's file, as the user knows it; the nodes had a copy.
        baseline: likewise.

    Raises:
        ShardError: if the reports are not of one run: the nodes differ.
    """
    kept = None if baseline is None else str(baseline)
    if not outcome.reports:
        return _nothing(fleet, outcome, confidence, policy, kept)
    named = {task.part.index: f"the report of {task}" for task in fleet.tasks}
    numbers = sorted(outcome.reports)
    sources = [named[number] for number in numbers]
    shards = [
        parse_shard(outcome.reports[number].encode(), source)
        for number, source in zip(numbers, sources, strict=True)
    ]
    report = merge(shards, sources, problems=outcome.problems)
    return report.model_copy(update={"policy": policy, "baseline": kept})


def _nothing(
    fleet: Fleet, outcome: Outcome, confidence: float, policy: str | None, baseline: str | None
) -> Report:
    """A report that says only why there is no other."""
    return Report(
        schema=SCHEMA,
        robustness=__version__,
        versions={},
        command=None,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=0.0,
        confidence=confidence,
        comparisons=0,
        alpha=1 - confidence,
        policy=policy,
        baseline=baseline,
        partial=False,
        problems=tuple(outcome.problems),
        exit_status=1,
        passed=False,
        shard=None,
        merged=len(fleet.tasks),
        checkpoints=(),
    )
