"""The gate: where a test of the packaged suite hands in its verdict."""

import shlex
from typing import TYPE_CHECKING

import pytest

from robustness.checks.planned import PlannedCheck
from robustness.report.junit import properties
from robustness.report.reporters import REPORTERS
from robustness.runtime.plain import plain
from robustness.statistics.verdict import Verdict

if TYPE_CHECKING:
    from robustness.scoring.examples import Example
    from robustness.vetting import Vetting

_KEPT = ("--model", "--robustness-")
"""Options that a command to run one test again needs."""

_WRITING = (
    *(f"--robustness-{name}" for name, reporter in REPORTERS.items() if reporter.in_a_run),
    "--robustness-save-baseline",
)
"""Options that it does not need."""

VERDICT = pytest.StashKey[Verdict]()
"""The verdict of a suite's test item."""

EXAMPLES = pytest.StashKey["list[Example]"]()
"""What it shows beside its verdict."""


class Gate:
    """Takes one verdict per test: records it, and fails the test unless it passes.

    Attributes:
        alpha: error probability of this test's statistical comparison.
        check: that the test decides.
    """

    def __init__(self, item: pytest.Item, check: PlannedCheck, alpha: float) -> None:
        self.alpha = alpha
        self.check = check
        self._item = item

    def decide(self, vetting: "Vetting") -> None:
        """Decide the check that the test was planned for; only ``pass`` passes."""
        self.settle(vetting.decide(self.check, alpha=self.alpha))

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict; only ``pass`` passes."""
        record(self._item, verdict)
        if verdict.outcome == "not applicable":
            pytest.skip(f"not applicable: {verdict.reason}")
        expected = self.check.expected_failure
        if verdict.outcome == "fail" and expected is not None:
            if not expected.expired:
                self._item.user_properties.append(("expected", "fail"))
                pytest.xfail(str(expected))
            reasons = [part for part in (verdict.reason, str(expected)) if part]
            verdict = verdict.model_copy(update={"reason": "; ".join(reasons)})
        if not verdict:
            pytest.fail(f"{verdict.explain()}\n{rerun_hint(self._item)}", pytrace=False)

    def illustrate(self, examples: "list[Example]") -> None:
        """Keep examples of what the check is about for the report; they decide nothing."""
        self._item.stash[EXAMPLES] = examples

    def skip_unless_applicable(self) -> None:
        """Settle a check that what was found leaves nothing to ask for."""
        why = self.check.not_applicable
        if why is not None:
            statement = in_words(self.check)
            self.settle(Verdict(outcome="not applicable", statement=statement, reason=why))


def in_words(check: "PlannedCheck") -> str:
    """The check's name, where nothing was measured that a statement could be of."""
    return check.check.replace("_", " ")


def record(item: pytest.Item, verdict: Verdict) -> None:
    """Keep a verdict with its test, and its numbers as JUnit properties."""
    item.stash[VERDICT] = verdict
    item.user_properties.extend(properties(verdict))


def rerun_hint(item: pytest.Item) -> str:
    """The command that runs just this test again, and overwrites no report."""
    kept: list[str] = []
    values = False  # whether the option before was kept and its value comes now
    for argument in map(str, item.config.invocation_params.args):
        if argument.startswith("-"):
            values = argument.startswith(_KEPT) and not argument.startswith(_WRITING)
        if values:
            kept.append(argument)
            values = argument.startswith("-") and "=" not in argument
    return plain(f"again: pytest {shlex.join([*kept, '-k', item.name])}", limit=None)
