"""A run is a verdict only if everything planned was collected and decided, and nothing else."""

import pytest

from robustness.pytest_support.completeness import Completeness
from robustness.report.results import CheckResult
from robustness.run.plan import RunPlan
from robustness.statistics.verdict import Outcome
from tests.support.records.plans import plan

FILES = {
    "test_weights_are_finite": "test_weights.py",
    "test_random_ablation_is_harmless": "test_controls.py",
    "test_layer_profile": "test_layers.py",
    "test_quantization_is_harmless": "test_quantization.py",
    "test_embedding_norm_alone_is_harmless": "test_layers.py",
    "test_outliers_matter_more_than_chance": "test_controls.py",
}


def ids(run: RunPlan, label: str) -> list[str]:
    """What pytest collects of a checkpoint."""
    return [
        f"robustness/{FILES.get(check.test, 'test_outliers.py')}::{check.test_name(label)}"
        for check in run.named(label).checks
    ]


def settle(completeness: Completeness, nodeids: list[str], outcome: Outcome = "pass") -> None:
    for nodeid in nodeids:
        check = nodeid.partition("::")[2].partition("[")[0].removeprefix("test_")
        result = CheckResult(id=nodeid, check=check, dims=(), outcome=outcome, statement="it is so")
        completeness.decide(result.test_name, result)


@pytest.fixture
def run() -> RunPlan:
    return plan("a", "b")


@pytest.mark.parametrize("narrowed", [True, False])
def test_all_collected_and_decided_is_complete(narrowed: bool, run: RunPlan) -> None:
    found = Completeness(run, narrowed=narrowed)
    everything = ids(run, "a") + ids(run, "b")
    assert len(everything) == len(found.expected) == len(found.left_out) == 12
    found.collect(everything)
    found.collect(everything)  # a second worker's
    settle(found, everything)
    assert found.problems() == []
    assert found.left_out == set()


def test_what_is_collected_must_be_decided(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    everything = ids(run, "a") + ids(run, "b")
    found.collect(everything)
    settle(found, everything[1:])
    assert found.problems() == [f"{everything[0]} was collected but gave no verdict"]


def test_a_test_that_is_not_in_the_plan_is_one_problem(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    parametrised = [id_.replace("[", "[1-") for id_ in ids(run, "a")]
    found.collect([*parametrised, *ids(run, "b")])
    settle(found, ids(run, "b"))
    (problem,) = found.problems()
    assert "is not in the plan (one of 6 such tests)" in problem


def test_tests_of_the_users_own_are_not_ours(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    found.collect(
        [
            "tests/test_mine.py::test_joint_ablation_degrades[a-dim7]",
            "robustness/test_mine.py::test_weights_are_finite[a]",
            "robustness/test_outliers.py::test_mine[a]",
        ]
    )
    assert not found.collected
    assert found.problems() == []


def test_one_check_is_decided_by_one_test(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    everything = ids(run, "a") + ids(run, "b")
    twin = everything[0].replace("test_weights.py", "test_controls.py")
    found.collect([*everything, twin])
    settle(found, [*everything, twin])
    assert found.problems() == [f"{twin} and {everything[0]} decide the same check"]


def test_a_checkpoint_that_vanished_is_a_problem(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    found.collect(ids(run, "a"))
    settle(found, ids(run, "a"))
    assert found.problems() == ["b yielded no check"]


def test_a_checkpoint_that_was_deselected_is_not(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    found.deselect(ids(run, "b"))
    found.collect(ids(run, "a"))
    settle(found, ids(run, "a"))
    assert found.problems() == []
    assert len(found.left_out) == 6


def test_a_checkpoint_that_was_not_asked_for_is_not(run: RunPlan) -> None:
    """With workers only the options tell."""
    found = Completeness(run, narrowed=True)
    found.collect(ids(run, "a")[:1])
    settle(found, ids(run, "a")[:1])
    assert found.problems() == []
    assert len(found.left_out) == 11


def test_a_checkpoint_without_any_check_is_a_problem_in_every_selection() -> None:
    run = plan("a", "b", without_checks=("b",))
    found = Completeness(run, narrowed=True)
    found.collect(ids(run, "a"))
    settle(found, ids(run, "a"))
    assert found.problems() == ["b yielded no check"]


def test_a_failure_that_nobody_reported_is_named(run: RunPlan) -> None:
    found = Completeness(run, narrowed=False)
    settle(found, ids(run, "a")[:1], "fail")
    settle(found, ids(run, "a")[1:2], "not applicable")
    (hidden,) = found.hidden_failures()
    assert hidden == f"{ids(run, 'a')[0]} came to 'fail' but was not reported as a failure"


def test_all_checks_missing_is_a_problem_unless_somebody_left_them_out(run: RunPlan) -> None:
    (problem,) = Completeness(run, narrowed=False).never_collected()
    assert problem.startswith(f"none of {len(Completeness(run, narrowed=False).expected)} checks")
    assert not Completeness(run, narrowed=True).never_collected()
    found = Completeness(run, narrowed=False)
    label = run.checkpoints[0].label
    found.deselect(ids(run, label))
    assert not found.never_collected()
