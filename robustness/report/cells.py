"""A checkpoint's checks as cells of a table, and in the order in which they need attention."""

import math
from collections.abc import Sequence

from robustness.report.results import CheckpointResult, CheckResult
from robustness.report.words import bound, figure, in_short

COLUMNS = ("check", "dims", "measured", "interval", "needed", "blocks", "verdict")
EXPECTED = "fail (expected)"
EXPIRED = "fail (mark expired)"

_ORDER = ("error", "fail", "inconclusive")
"""Outcomes that fail a run, the worst first."""


def row_of(check: CheckResult, n_blocks: int) -> tuple[str, ...]:
    """Return the cells of a decided check, on a corpus of so many text blocks."""
    return (
        check.name,
        f"{len(check.dims)} random" if check.is_random else in_short(check.dims),
        "" if check.measured is None else figure(check.measured),
        _interval(check),
        _needed(check),
        f"{check.seen}{'*' * (check.seen > total_of(check, n_blocks))}" if check.seen else "",
        verdict_of(check),
    )


def total_of(check: CheckResult, n_blocks: int) -> int:
    """Return how much there is to measure: text blocks of the corpus, or examples of the task."""
    task = check.details.task
    return n_blocks if task is None else task.task_examples


def verdict_of(check: CheckResult) -> str:
    """Return the outcome with what an expectation makes of it."""
    if check.outcome != "fail" or check.expected_failure is None:
        return check.outcome
    return EXPIRED if check.expected_failure.expired else EXPECTED


def _interval(check: CheckResult) -> str:
    if check.interval is None:
        return "exact" if check.exact else ""
    return " to ".join(map(bound, check.interval))


def _needed(check: CheckResult) -> str:
    if check.threshold is None:
        return ""
    sign = {"below": "<", "above": ">=", None: ""}[check.passes]
    return f"{sign} {figure(check.threshold)}".strip()


def severity(check: CheckResult) -> tuple[int, float]:
    """Return a key that puts the worst first: by outcome, then by distance to the threshold."""
    if not check.is_accepted:
        rank = _ORDER.index(check.outcome)
    elif check.outcome == "fail":
        rank = len(_ORDER)  # as expected
    else:
        rank = len(_ORDER) + (1 if check.outcome == "not applicable" else 2)
    return rank, margin(check)


def margin(check: CheckResult) -> float:
    """Return how far a check lies on the passing side; infinite if that is unknown.

    Of what multiplies something it is the log of a ratio, of all else the difference.
    """
    if check.measured is None or check.threshold is None or check.passes is None:
        return math.inf
    scale = _log if check.is_factor else float
    distance = scale(check.measured) - scale(check.threshold)
    if math.isnan(distance):
        return -math.inf
    return distance if check.passes == "above" else -distance


def _log(value: float) -> float:
    """Return the logarithm of a factor, which can be negative where ablation helps."""
    return math.log(value) if value > 0 else -math.inf if value <= 0 else math.nan


def worst_check(checks: Sequence[CheckResult]) -> CheckResult:
    """Return the check that most needs attention; of equals the first."""
    return min(checks, key=severity)


def checks_in_order(checks: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the checks, the worst first; those that pass stay in the order of the suite."""
    return sorted(checks, key=lambda check: severity(check)[0])


def checkpoints_in_order(checkpoints: Sequence[CheckpointResult]) -> list[CheckpointResult]:
    """Return checkpoints that have checks, ordered by their worst check."""
    return sorted(checkpoints, key=lambda checkpoint: severity(worst_check(checkpoint.checks)))
