"""Failures that a policy expects: allowed until their date, told everywhere, and never a habit."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from robustness.checks.planned import unexpected_passes, with_expectations
from robustness.errors import PolicyError
from robustness.policy.policy import Policy, load_policy
from robustness.run.plan import RunPlan
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    Stubs,
    checks,
    run_suite,
    slowly_with_workers,
    text_of,
)
from tests.support.records.plans import plan

TODAY = date(2026, 11, 24)
JOINT = f"robustness/test_outliers.py::test_joint_ablation_degrades[{LABEL}-dim{DIM}]"
MARK = 'expected = "fail"\nreason = "undertrained, see #7"\nexpires = {day}\n'
STRICT = f"[checkpoints.{LABEL!r}.checks.joint_ablation_degrades]\n"


def policy(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return load_policy(file)


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_a_mark_holds_until_the_end_of_its_day(days: int, tmp_path: Path) -> None:
    text = "[checks.joint_ablation_degrades]\n" + MARK.format(day=TODAY + timedelta(days=days))
    found = policy(tmp_path, text).settings("x")
    (planned,) = plan("a").checkpoints
    marked = with_expectations(planned.checks, found.limits, today=TODAY)
    by_test = {check.test: check for check in marked}
    mark = by_test.pop("test_joint_ablation_degrades")
    assert mark.may_fail is (days >= 0)
    assert mark.expected_failure is not None
    assert mark.expected_failure.reason == "undertrained, see #7"
    assert not any(check.may_fail for check in by_test.values())


def test_marks_travel_to_workers(tmp_path: Path) -> None:
    found = policy(tmp_path, "[checks.ablation_degrades]\n" + MARK.format(day=TODAY))
    (planned,) = plan("a").checkpoints
    planned = replace(planned, settings=found.settings("x"))
    run = replace(plan("a"), checkpoints=(planned,)).expecting(TODAY)
    again = RunPlan.from_json(run.to_json())
    assert again == run
    assert sum(check.may_fail for check in again.checkpoints[0].checks) == 1


@pytest.mark.parametrize(
    "text",
    [
        'expected = "fail"\n',
        'expected = "fail"\nreason = "x"\n',
        "expires = 2030-01-31\n",
        'expected = "pass"\nreason = "x"\nexpires = 2030-01-31\n',
        'expected = "fail"\nreason = ""\nexpires = 2030-01-31\n',
        'expected = "fail"\nreason = "x"\nexpires = "soon"\n',
        'expected = "fail"\nreason = "x"\nexpires = 2030\n',
    ],
)
def test_a_mark_needs_a_reason_and_a_date(text: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="ablation_degrades"):
        policy(tmp_path, f"[checks.ablation_degrades]\n{text}")


def test_a_mark_is_needed_while_one_of_its_tests_fails(tmp_path: Path) -> None:
    found = policy(tmp_path, "[checks.ablation_degrades]\n" + MARK.format(day=TODAY))
    (planned,) = plan("a").checkpoints
    single = next(check for check in planned.checks if check.test == "test_ablation_degrades")
    both = (single, replace(single, dims=(9,), suffix="dim9"))
    marked = with_expectations(both, found.settings("x").limits, today=TODAY)
    names = [check.test_name("a") for check in marked]

    def problems(*outcomes: str) -> list[str]:
        return unexpected_passes("a", marked, dict(zip(names, outcomes, strict=False)))

    assert problems("pass", "fail") == problems("fail", "fail") == []
    assert problems("pass") == []  # the other was not selected
    assert problems("pass", "error") == problems("pass", "inconclusive") == []
    (told,) = problems("pass", "pass")
    assert "test_ablation_degrades of a is expected to fail until 2026-11-24" in told
    assert "undertrained, see #7" in told
    expired = with_expectations(both, found.settings("x").limits, today=TODAY + timedelta(days=1))
    assert unexpected_passes("a", expired, dict.fromkeys(names, "pass")) == []


@slowly_with_workers
def test_an_expected_failure_does_not_fail_the_run(
    state: tuple[str, ...], stubs: Stubs, tmp_path: Path
) -> None:
    (tmp_path / "robustness.toml").write_text(
        STRICT + "min_ratio = 1000.0\n" + MARK.format(day="2999-01-01")
    )
    run = run_suite(tmp_path, *stubs.options, *state)
    assert run.result.ret == 0
    run.result.assert_outcomes(passed=5, xfailed=1)
    assert run.verdicts[JOINT] == "fail"
    assert run.facts["passed"]
    assert run.facts["problems"] == []
    mark = {"reason": "undertrained, see #7", "expires": "2999-01-01", "expired": False}
    assert checks(run.facts)[JOINT]["expected_failure"] == mark
    run.result.stdout.fnmatch_lines(
        [
            "joint ablation degrades *fail (expected)",
            "joint ablation degrades is expected to fail until 2999-01-01: undertrained, see #7",
        ]
    )
    properties = run.properties[JOINT.partition("::")[2]]
    assert (properties["verdict"], properties["expected"]) == ("fail", "fail")


def test_an_expired_mark_is_void(stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "robustness.toml").write_text(
        STRICT + "min_ratio = 1000.0\n" + MARK.format(day="2020-01-01")
    )
    run = run_suite(tmp_path, *stubs.options)
    assert run.result.ret == 1
    run.result.assert_outcomes(passed=5, failed=1)
    assert "was expected to fail until 2020-01-01 (undertrained, see #7)" in text_of(run.result)
    run.result.stdout.fnmatch_lines(["joint ablation degrades *fail (mark expired)"])
    assert not run.facts["passed"]


def test_an_unexpected_pass_fails_the_run(stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "robustness.toml").write_text(STRICT + MARK.format(day="2999-01-01"))
    run = run_suite(tmp_path, *stubs.options)
    assert run.result.ret == 1
    run.result.assert_outcomes(passed=6)
    (problem,) = run.facts["problems"]
    assert "take the mark out of the policy" in problem
    assert not run.facts["passed"]


def test_only_a_failure_is_expected_and_not_an_error(stubs: Stubs, tmp_path: Path) -> None:
    """What nobody has understood is not expected."""
    (tmp_path / "robustness.toml").write_text(STRICT + MARK.format(day="2999-01-01"))
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "from robustness.checks.ablation import AblatedModel\n"
        "def broken(self, **_):\n"
        "    raise RuntimeError('planted')\n"
        "AblatedModel.degrades = broken\n"
    )
    run = run_suite(tmp_path, *stubs.options, "-k", "joint")
    assert run.result.ret == 1
    assert run.verdicts == {JOINT: "error"}
