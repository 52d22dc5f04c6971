"""Planned checks: what a run will decide of one checkpoint. Plain data that travels to workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Protocol

from robustness.statistics.figures import Figures


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
class PlannedCheck:
    """One check of one checkpoint.

    Attributes:
        check: its name.
        dims: the dimensions it is about.
        suffix: its part of the test id, after the checkpoint's label.
        statistical: whether its verdict is a statistical comparison (counted in m).
        not_applicable: why it cannot be asked, or ``None``.
        expected_failure: why and until when it may fail, or ``None``.
    """

    check: str
    dims: tuple[int, ...] = ()
    suffix: str = ""
    statistical: bool = True
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "check": self.check,
            "dims": list(self.dims),
            "suffix": self.suffix,
            "statistical": self.statistical,
            "not_applicable": self.not_applicable,
            "expected_failure": self.expected_failure and self.expected_failure.model_dump(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PlannedCheck":
        """The inverse of :meth:`to_dict`."""
        expected = data["expected_failure"]
        return cls(
            **{
                **data,
                "dims": tuple(data["dims"]),
                "expected_failure": expected and ExpectedFailure(**expected),
            }
        )


class Marked(Protocol):
    """The part of a check's limits that marks failures as expected."""

    @property
    def expected(self) -> str | None:
        """``fail``, or nothing."""

    @property
    def reason(self) -> str | None:
        """Why."""

    @property
    def expires(self) -> date | None:
        """The last day on which it may."""


def with_expectations(
    checks: Iterable[PlannedCheck], limits: Mapping[str, Marked], *, today: date
) -> tuple[PlannedCheck, ...]:
    """The checks, those marked ``expected = "fail"`` in the policy with their mark.

    Args:
        checks: of one checkpoint.
        limits: of every check, by its name.
        today: decides what has expired.
    """
    return tuple(
        replace(check, expected_failure=_expected(limits[check.check], today)) for check in checks
    )


def _expected(limits: Marked, today: date) -> ExpectedFailure | None:
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
    pass. That nobody needs it is a problem: it would hide the next failure.

    Args:
        label: the checkpoint's.
        checks: all that are planned for it.
        outcomes: by test name, as far as there are any.
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
