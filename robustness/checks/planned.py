"""Planned checks: what a run will decide of one checkpoint. Plain data that travels to workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from robustness.checks.limits import Limits
from robustness.statistics.figures import Figures
from robustness.store.documents import PlainRecord


class ExpectedFailure(Figures):
    """That a check may fail.

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


@dataclass(frozen=True, kw_only=True)
class PlannedCheck(PlainRecord):
    """One check of one checkpoint.

    Attributes:
        check: its name.
        dims: the dimensions it is about.
        suffix: its part of the test id, after the checkpoint's label.
        comparisons: how many statistical comparisons its verdict is made of (counted in m).
        not_applicable: why it cannot be asked, or ``None``.
        expected_failure: why and until when it may fail, or ``None``.
    """

    check: str
    dims: tuple[int, ...] = ()
    suffix: str = ""
    comparisons: int = 1
    not_applicable: str | None = None
    expected_failure: ExpectedFailure | None = None

    @property
    def test(self) -> str:
        """The suite's function."""
        return f"test_{self.check}"

    @property
    def may_fail(self) -> bool:
        """Whether a failure is expected, and the mark has not expired."""
        return self.expected_failure is not None and not self.expected_failure.expired

    def test_id(self, label: str) -> str:
        """The part in brackets of its test's name: ``bert-dim308``."""
        return f"{label}-{self.suffix}" if self.suffix else label

    def test_name(self, label: str) -> str:
        """Its test as pytest names it: ``test_ablation_degrades[bert-dim308]``."""
        return f"{self.test}[{self.test_id(label)}]"


def with_expectations(
    checks: Iterable[PlannedCheck], limits: Mapping[str, Limits], *, today: date
) -> tuple[PlannedCheck, ...]:
    """The checks of a checkpoint, those that the policy expects to fail with their mark."""
    return tuple(
        replace(check, expected_failure=_expected(limits[check.check], today)) for check in checks
    )


def _expected(limits: Limits, today: date) -> ExpectedFailure | None:
    if limits.expected is None or limits.reason is None or limits.expires is None:
        return None
    return ExpectedFailure(
        reason=limits.reason,
        expires=limits.expires.isoformat(),
        expired=today > limits.expires,
    )


def unexpected_passes(
    label: str, checks: Sequence[PlannedCheck], outcomes: Mapping[str, str]
) -> list[str]:
    """Marks that nothing needs any more: sentences, one per test function of a checkpoint.

    A mark is of all a checkpoint's tests of one function, and is needed while one of them does not
    pass. That nobody needs it is a problem: it would hide the next failure. ``outcomes`` are by
    test name, as far as there are any.
    """
    marked: dict[str, list[PlannedCheck]] = {}
    for check in checks:
        if check.may_fail:
            marked.setdefault(check.test, []).append(check)
    sentences = []
    for test, same in marked.items():
        ends = {outcomes.get(check.test_name(label)) for check in same}
        if ends <= {"pass", "not applicable"}:
            came = " and ".join(sorted(map(repr, ends)))
            sentences.append(
                f"{test} of {label} is {same[0].expected_failure}; but it came to {came}: take "
                "the mark out of the policy, where it would hide the next failure"
            )
    return sentences
