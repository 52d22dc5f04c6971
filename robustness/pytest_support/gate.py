"""The gate, where a suite test hands in its verdict, and how the verdict gets onto its report."""

import shlex
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from robustness.checks.planned import PlannedCheck
from robustness.errors import RobustnessError
from robustness.pytest_support.collection import planned_check
from robustness.pytest_support.state import STATE
from robustness.report.collected import check_result
from robustness.report.junit import properties
from robustness.report.reporters import REPORTERS
from robustness.runtime.plain import encodable, plain
from robustness.statistics.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from robustness.scoring.examples import Example
    from robustness.vetting import Vetting

# Options that a command to run one test again needs, and those of them that it does not.
_KEPT = ("--model", "--reference", "--robustness-")
_WRITING = (
    "--robustness-save-baseline",
    *(f"--robustness-{name}" for name, reporter in REPORTERS.items() if reporter.in_a_run),
)

# Attributes of a test report: the decided check as JSON text, and its test's name in the plan.
REPORTED, PLANNED = "robustness", "robustness_test"

# What a test of the suite came to, and what it shows beside that.
VERDICT = pytest.StashKey[Verdict]()
EXAMPLES = pytest.StashKey["list[Example]"]()


@dataclass(frozen=True, eq=False)
class Gate:
    """Takes one verdict per test: records it, and fails the test unless it passes.

    ``alpha`` is the error probability of the test's statistical comparison.
    """

    item: pytest.Item
    check: PlannedCheck
    alpha: float

    def decide(self, vetting: "Vetting") -> None:
        """Decide the check that the test was planned for; only ``pass`` passes."""
        self.settle(vetting.decide(self.check, alpha=self.alpha))

    def settle(self, verdict: Verdict) -> None:
        """Record the verdict; only ``pass`` passes."""
        record(self.item, verdict)
        if verdict.outcome == "not applicable":
            pytest.skip(f"not applicable: {verdict.reason}")
        expected = self.check.expected_failure
        if verdict.outcome == "fail" and expected is not None:
            if not expected.expired:
                self.item.user_properties.append(("expected", "fail"))
                pytest.xfail(str(expected))
            reasons = [part for part in (verdict.reason, str(expected)) if part]
            verdict = verdict.model_copy(update={"reason": "; ".join(reasons)})
        if not verdict:
            pytest.fail(f"{verdict.explain()}\n{rerun_hint(self.item)}", pytrace=False)

    def illustrate(self, examples: "list[Example]") -> None:
        """Keep examples of what the check is about for the report; they decide nothing."""
        self.item.stash[EXAMPLES] = examples

    def skip_unless_applicable(self) -> None:
        """Settle a check that what was found leaves nothing to ask for."""
        if (why := self.check.not_applicable) is not None:
            self.settle(_unmeasured(self.check, "not applicable", why))


def _unmeasured(check: PlannedCheck, outcome: Outcome, reason: str) -> Verdict:
    """A verdict that states the check's name: nothing was measured that it could speak of."""
    return Verdict(outcome=outcome, statement=check.check.replace("_", " "), reason=reason)


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


class Recorder:
    """Puts verdicts on reports, in every process; there the controller takes them."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the verdict on the report; an error in a suite test is a verdict, too."""
        if (state := item.config.stash.get(STATE, None)) is not None:
            state.progress.clear()
        error = call.excinfo.value if call.excinfo is not None else None
        check = planned_check(item)
        if check is not None and VERDICT not in item.stash and isinstance(error, Exception):
            reason = encodable(str(error), "utf-8")  # names of files in it can be no text
            record(item, _unmeasured(check, "error", reason))
        report = yield
        if isinstance(error, RobustnessError):
            report.longrepr = f"{type(error).__name__}: {error}"
        verdict = item.stash.get(VERDICT, None)
        if verdict is not None and check is not None and report.when != "teardown":
            shown = item.stash.get(EXAMPLES, [])
            result = check_result(item.nodeid, check, verdict, examples=shown)
            # JSON text: only plain types may travel from a worker to the controller.
            report.__dict__[REPORTED] = result.model_dump_json()
            label = item.callspec.params["checkpoint"]  # type: ignore[attr-defined]
            report.__dict__[PLANNED] = check.test_name(label)
        return report
