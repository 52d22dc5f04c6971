"""What to look at first: checks and checkpoints by how bad they came out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustness.report.facts import is_accepted

Facts = Mapping[str, Any]

_ORDER = ("error", "fail", "inconclusive")
"""Verdicts that fail a run, the worst first."""


def severity(check: Facts) -> tuple[int, float]:
    """A key by which the worst check comes first: by verdict, then by distance to the threshold."""
    verdict = check["verdict"]
    if not is_accepted(check):
        rank = _ORDER.index(verdict) if verdict in _ORDER else 0
    elif verdict == "fail":
        rank = len(_ORDER)  # as expected
    else:
        rank = len(_ORDER) + (1 if verdict == "not applicable" else 2)
    return rank, margin(check)


def margin(check: Facts) -> float:
    """How far a check lies on the passing side, as the log of a ratio; infinite if unknown.

    A task's drops are no ratios: for them it is the difference.
    """
    if check["ratio"] is None or check["threshold"] is None or check["passes"] is None:
        return math.inf
    scale = float if "task" in check["details"] else _log
    distance = scale(float(check["ratio"])) - scale(float(check["threshold"]))
    if math.isnan(distance):
        return -math.inf
    return distance if check["passes"] == "above" else -distance


def _log(value: float) -> float:
    """Of a factor, which can be negative where ablation helps."""
    return math.log(value) if value > 0 else -math.inf if value <= 0 else math.nan


def worst_check(checks: Sequence[Facts]) -> Facts:
    """The check that most needs attention; of equals the first."""
    return min(checks, key=severity)


def checks_in_order(checks: Sequence[Facts]) -> list[Facts]:
    """Checks, the worst first; those that pass stay in the order of the suite."""
    return sorted(checks, key=lambda check: severity(check)[0])


def checkpoints_in_order(checkpoints: Sequence[Facts]) -> list[Facts]:
    """Checkpoints that have checks, by their worst check."""
    return sorted(checkpoints, key=lambda checkpoint: severity(worst_check(checkpoint["checks"])))
