"""Whether a run decided what was planned: plan, collected tests and verdicts side by side."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

from robustness.checks.planned import unexpected_passes
from robustness.pytest_support.collection import FILES, is_suite_id
from robustness.report.results import CheckResult, presence_test, unaccounted
from robustness.run.plan import RunPlan

_SELECTING = ("keyword", "markexpr", "lf", "deselect", "stepwise", "ignore", "ignore_glob")
"""pytest's options that leave tests out, by the name they are stored under."""


class Completeness:
    """Remembers ids and verdicts as they arrive, and says what is missing or too many."""

    def __init__(self, plan: RunPlan, *, narrowed: bool) -> None:
        """Start with nothing collected; narrowed, if the user asked for a part of the suite."""
        self.results: dict[str, CheckResult] = {}
        self._tests_of: dict[str, str] = {}
        self.collected: set[str] = set()
        self._deselected: set[str] = set()
        self._narrowed = narrowed
        self.plan = plan
        self._names = {
            planned.label: {check.test_name(planned.label) for check in planned.checks}
            for planned in plan.checkpoints
        }
        self.expected: set[str] = set().union(*self._names.values())
        self._tests = {check.test for planned in plan.checkpoints for check in planned.checks}

    @property
    def decided(self) -> dict[str, CheckResult]:
        """Decided checks by the name that their test has in the plan, whatever its id became."""
        return {self._tests_of[nodeid]: result for nodeid, result in self.results.items()}

    @property
    def left_out(self) -> set[str]:
        """Names of planned tests that were not selected."""
        return self.expected - {_name(nodeid) for nodeid in self.collected} - self.decided.keys()

    def decide(self, test: str, result: CheckResult) -> None:
        """Take in a verdict, with the name that its test has in the plan."""
        self.results[result.id] = result
        self._tests_of[result.id] = test

    def collect(self, ids: Iterable[str]) -> None:
        """Remember the suite's tests among these; without verdicts, they are problems."""
        self.collected.update(filter(self._is_ours, ids))

    def deselect(self, ids: Iterable[str]) -> None:
        """Remember that tests were left out on request."""
        self._deselected.update(filter(self._is_ours, ids))

    def problems(self) -> list[str]:
        """Why a run is not a verdict although no test failed: sentences, none if all is well."""
        unknown = sorted(id_ for id_ in self.collected if _name(id_) not in self.expected)
        problems = [
            f"{nodeid} was collected but gave no verdict"
            for nodeid in sorted(self.collected - {*self.results, *unknown})
        ]
        # Of a shard that has a part of a checkpoint's checks, the merge can tell, and only it.
        problems += [] if self.plan.shard else self._not_accounted()
        if unknown:
            return [
                *problems,
                f"{unknown[0]} is not in the plan (one of {len(unknown)} such tests): a conftest "
                "or another plugin parametrises or renames the packaged suite, which it must not",
            ]
        problems += self._decided_twice() + self._without_checks()
        return problems if self.plan.shard else problems + self._unexpected_passes()

    def never_collected(self) -> list[str]:
        """Of a run of the suite without any test: that all are missing, unless that was asked."""
        if self._narrowed or self.collected or self._deselected or not self.expected:
            return []
        return [
            f"none of {len(self.expected)} checks was collected: no process came so far, for the "
            "reason that is told above"
        ]

    def hidden_failures(self) -> list[str]:
        """Verdicts that do not pass, in a run that pytest takes for a success (an xfail mark)."""
        return [
            f"{nodeid} came to {result.outcome!r} but was not reported as a failure"
            for nodeid, result in self.results.items()
            if not result.is_accepted
        ]

    def _unexpected_passes(self) -> list[str]:
        outcomes = {test: result.outcome for test, result in self.decided.items()}
        return [
            problem
            for planned in self.plan.checkpoints
            for problem in unexpected_passes(planned.label, planned.checks, outcomes)
        ]

    def _is_ours(self, nodeid: str) -> bool:
        return is_suite_id(nodeid) and _name(nodeid).partition("[")[0] in self._tests

    def _not_accounted(self) -> list[str]:
        """Checks that do not apply, where nobody says why: that is the outlier check's part."""
        groups = (
            [result for test, result in self.decided.items() if test in names]
            for names in self._names.values()
        )
        return [
            f"{result.id} is not applicable, but {presence_test()} gave no verdict"
            for group in groups
            for result in unaccounted(group)
        ]

    def _decided_twice(self) -> list[str]:
        ids: dict[str, set[str]] = defaultdict(set)
        for nodeid in self.collected:
            ids[_name(nodeid)].add(nodeid)
        for nodeid, test in self._tests_of.items():
            ids[test].add(nodeid)
        twice = (sorted(same) for same in ids.values() if len(same) > 1)
        return [f"{' and '.join(same)} decide the same check" for same in twice]

    def _without_checks(self) -> list[str]:
        """Checkpoints that were named but not vetted, and not because of a selection."""
        if not self.collected:
            return []  # only tests of the user's own, or nothing at all: pytest's exit code 5
        seen = {_name(nodeid) for nodeid in self.collected | self._deselected}
        return [
            f"{label} yielded no check"
            for label, names in self._names.items()
            if not names or not (self._narrowed or seen & names)
        ]


def _name(nodeid: str) -> str:
    return nodeid.partition("::")[2]


def is_narrowed(config: pytest.Config) -> bool:
    """Whether options or paths ask for a part of the tests.

    With workers this is all that can be known: they deselect, and report only what is left.
    """
    modules = tuple(name.removesuffix(".py") for name in FILES)
    return any(getattr(config.option, name, None) for name in _SELECTING) or any(
        "::" in path or path.removesuffix(".py").endswith(modules) for path in config.args
    )
