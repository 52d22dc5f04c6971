"""Failures that a policy expects, until a date."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from robustness.statistics.figures import Figures

if TYPE_CHECKING:
    from robustness.checks.checks import Check
    from robustness.policy.policy import Settings


class ExpectedFailure(Figures):
    """A check that may fail.

    Attributes:
        reason: why.
        expires: ISO date of the last day on which it may.
        expired: whether that day has passed.
    """

    reason: str
    expires: str
    expired: bool

    def __str__(self) -> str:
        """For a report."""
        if self.expired:
            return f"was expected to fail until {self.expires} ({self.reason})"
        return f"expected to fail until {self.expires}: {self.reason}"


def with_expectations(
    checks: Iterable["Check"], settings: "Settings", *, today: date
) -> tuple["Check", ...]:
    """The checks, those marked ``expected = "fail"`` in the policy with their mark.

    Args:
        checks: of one checkpoint.
        settings: the policy's settings for it.
        today: decides what has expired.
    """
    return tuple(
        replace(check, expected_failure=_expected(check.test, settings, today)) for check in checks
    )


def unexpected_passes(
    label: str, checks: Sequence["Check"], verdicts: Mapping[str, str]
) -> list[str]:
    """Marks that nothing needs any more: sentences, one per test function of a checkpoint.

    A mark is of all a checkpoint's tests of one function, and is needed while one of them does not
    pass. That nobody needs it is a problem: it would hide the next failure.

    Args:
        label: the checkpoint's.
        checks: all that are planned for it.
        verdicts: outcome by test name, as far as there are any.
    """
    marks: dict[str, list[Check]] = {}
    for check in checks:
        if check.expected_failure is not None and not check.expected_failure.expired:
            marks.setdefault(check.test, []).append(check)
    found = []
    for test, same in marks.items():
        outcomes = {verdicts.get(check.test_name(label)) for check in same}
        if outcomes <= {"pass", "not applicable"}:
            came = " and ".join(sorted(map(repr, outcomes)))
            found.append(
                f"{test} of {label} is {same[0].expected_failure}; but it came to {came}: take "
                "the mark out of the policy, where it would hide the next failure"
            )
    return found


def _expected(test: str, settings: "Settings", today: date) -> ExpectedFailure | None:
    limits = getattr(settings.checks, test.removeprefix("test_"))
    if limits.expected is None:
        return None
    return ExpectedFailure(
        reason=limits.reason,
        expires=limits.expires.isoformat(),
        expired=today > limits.expires,
    )
