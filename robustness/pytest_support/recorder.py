"""In every process: ties each test's report to its verdict."""

from collections.abc import Generator

import pytest

from robustness.errors import RobustnessError
from robustness.pytest_support.collection import planned_check
from robustness.pytest_support.gate import EXAMPLES, VERDICT, in_words, record
from robustness.pytest_support.state import STATE
from robustness.report.collected import check_result
from robustness.runtime.plain import encodable
from robustness.statistics.verdict import Verdict

REPORTED = "robustness"
"""Attribute of a test report that carries the decided check as JSON text."""

PLANNED = "robustness_test"
"""Attribute of a test report that carries the name that its test has in the plan."""


class Recorder:
    """Puts verdicts on reports, from which the controller takes them."""

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
            record(item, Verdict(outcome="error", statement=in_words(check), reason=reason))
        report = yield
        if isinstance(error, RobustnessError):
            report.longrepr = f"{type(error).__name__}: {error}"
        verdict = item.stash.get(VERDICT, None)
        if verdict is not None and check is not None and report.when != "teardown":
            # JSON text: only plain types may travel from a worker to the controller.
            shown = item.stash.get(EXAMPLES, [])
            found = check_result(item.nodeid, check, verdict, examples=shown)
            report.__dict__[REPORTED] = found.model_dump_json()
            label = item.callspec.params["checkpoint"]  # type: ignore[attr-defined]
            report.__dict__[PLANNED] = check.test_name(label)
        return report
