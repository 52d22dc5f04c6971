"""A checkpoint's checks as cells of a table, and in the order in which they need attention."""

import math
from collections.abc import Sequence

from robustness.report.results import CheckpointResult, CheckResult
from robustness.report.words import bound, figure, in_short

COLUMNS = ("check", "dims", "measured", "interval", "needed", "blocks", "verdict")
EXPECTED = "fail (expected)"
EXPIRED = "fail (mark expired)"
RECORDED = "recorded"

_ORDER = ("error", "fail", "inconclusive")
"""Outcomes that fail a run, the worst first."""


def row_of(check: CheckResult, n_blocks: int) -> tuple[str, ...]:
    """Return the cells of a decided check, on a corpus of so many text blocks."""
    interval = "exact" if check.exact else ""
    if check.interval is not None:
        interval = " to ".join(map(bound, check.interval))
    needed = ""
    if check.threshold is not None:
        sign = {"below": "< ", "above": ">= ", None: ""}[check.passes]
        needed = f"{sign}{figure(check.threshold)}"
    return (
        check.name,
        f"{len(check.dims)} random" if check.is_random else in_short(check.dims),
        _measured(check),
        interval,
        needed,
        f"{check.seen}{'*' * (check.seen > total_of(check, n_blocks))}" if check.seen else "",
        verdict_of(check),
    )


def _measured(check: CheckResult) -> str:
    """Return the number, with as many digits as show on which side of the threshold it lies."""
    if check.measured is None:
        return ""
    text = figure(check.measured)
    if check.threshold is not None and text == figure(check.threshold) != str(check.measured):
        text = f"{check.measured:.7g}"
    return text


def total_of(check: CheckResult, n_blocks: int) -> int:
    """Return how much there is to measure: text blocks of the corpus, or examples of the task."""
    task = check.details.task
    return n_blocks if task is None else task.task_examples


def verdict_of(check: CheckResult) -> str:
    """Return the outcome with what an expectation makes of it; what cannot fail does not pass."""
    if check.outcome == "pass" and check.measured is not None and check.threshold is None:
        return RECORDED
    if check.outcome != "fail" or check.expected_failure is None:
        return check.outcome
    return EXPIRED if check.expected_failure.expired else EXPECTED


def severity(check: CheckResult) -> tuple[int, float]:
    """Return a key that puts the worst first: by outcome, then by distance to the threshold."""
    refused = not check.is_accepted
    expected = {"fail": 3, "not applicable": 4}.get(check.outcome, 5)
    return _ORDER.index(check.outcome) if refused else expected, margin(check)


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
