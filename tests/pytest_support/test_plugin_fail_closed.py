"""What could let a run of the suite pass although a verdict is missing."""

import textwrap

import pytest

from tests.support.plugin.plugin_runs import JOINT, NO_VERDICT, literal
from tests.support.plugin.plugin_support import (
    LABEL,
    SUITE,
    Stubs,
    read_json,
    slowly_with_workers,
    text_of,
    verdicts,
    with_and_without_workers,
)

HIDING = {
    "skipped by a mark": """
        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name.startswith("test_joint"):
                    item.add_marker(pytest.mark.skip(reason="not today"))
        """,
    "skipped while it runs": """
        def pytest_runtest_setup(item):
            if item.name.startswith("test_joint"):
                pytest.skip("not today")
        """,
    "never run": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            return True if item.name.startswith("test_joint") else None
        """,
    "replaced": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            if item.name.startswith("test_joint"):
                item.runtest = lambda: None
        """,
}


@slowly_with_workers
@pytest.mark.parametrize("hook", HIDING.values(), ids=HIDING.keys())
@pytest.mark.smoke
def test_a_check_without_a_verdict_fails_the_run(
    hook: str, state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    """Hooks of a plugin: those of a conftest.py that are about one test do not reach the suite."""
    lenient.makepyfile(hiding="import pytest\n" + textwrap.dedent(hook))
    result = lenient.runpytest_subprocess(
        *stubs.options, *state, "-p", "hiding", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"robustness: {literal(NO_VERDICT)}"])
    facts = read_json(lenient.path / "report.json")
    assert not facts["passed"]
    assert facts["problems"] == [NO_VERDICT]


@slowly_with_workers
def test_a_conftest_that_skips_everything_fails_the_run(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.skip)
        """
    )
    result = lenient.runpytest_subprocess(*stubs.options, *state, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(skipped=6)
    assert len(read_json(lenient.path / "report.json")["problems"]) == 6


@slowly_with_workers
def test_a_policy_that_leaves_nothing_to_check_is_no_pass(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    names = {test.partition("::")[2].partition("[")[0].removeprefix("test_") for test in SUITE}
    off = "".join(f"[checks.{name}]\nenabled = false\n" for name in names)
    (lenient.path / "robustness.toml").write_text(off)
    result = lenient.runpytest_subprocess(*stubs.options, *state, "--robustness-json=report.json")
    assert result.ret != pytest.ExitCode.OK
    assert "passed" not in result.parseoutcomes()
    assert not read_json(lenient.path / "report.json")["passed"]


@pytest.mark.smoke
def test_an_expected_failure_is_no_pass(strict: pytest.Pytester, stubs: Stubs) -> None:
    strict.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.xfail)
        """
    )
    result = strict.runpytest_subprocess(*stubs.options, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"robustness: {literal(JOINT)} *"])
    assert not read_json(strict.path / "report.json")["passed"]


def test_a_check_removed_by_somebody_makes_the_run_partial(
    lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if "joint" not in item.name]
        """
    )
    result = lenient.runpytest_subprocess(*stubs.options, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["PARTIAL: *"])
    assert read_json(lenient.path / "report.json")["partial"]


EXTRA_PARAMETER = """
    import pytest

    @pytest.fixture(params=[1], autouse=True, scope="session")
    def backend(request):
        return request.param
    """


@slowly_with_workers
def test_a_suite_with_other_ids_is_no_pass(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    """A fixture that parametrises everything hides nothing."""
    lenient.makeconftest(EXTRA_PARAMETER)
    lenient.makepyfile(hiding="import pytest\n" + textwrap.dedent(HIDING["skipped by a mark"]))
    result = lenient.runpytest_subprocess(
        *stubs.options, *state, "-p", "hiding", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=5, skipped=1)
    facts = read_json(lenient.path / "report.json")
    assert not facts["passed"]
    (problem,) = facts["problems"]
    assert "is not in the plan (one of 6 such tests)" in problem
    assert len(verdicts(facts)) == 5  # what was decided is shown all the same
    result.stdout.fnmatch_lines([f"*= robustness: {LABEL}*", "weights are finite *pass"])


@slowly_with_workers
def test_a_checkpoint_that_vanishes_fails_the_run(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if "[b-" not in item.name]
        """
    )
    result = lenient.runpytest_subprocess(
        f"--model={stubs.model}", f"--model={stubs.other}", *stubs.surroundings, *state
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines([f"robustness: b-{LABEL} yielded no check"])


@with_and_without_workers
def test_a_failing_test_of_ones_own_is_no_pass(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makepyfile("def test_mine(): assert False")
    result = lenient.runpytest_subprocess(
        *stubs.options, *state, "--robustness-json=report.json", "--pyargs", "robustness.suite", "."
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6, failed=1)
    facts = read_json(lenient.path / "report.json")
    assert verdicts(facts) == dict.fromkeys(SUITE, "pass")
    assert not facts["partial"]
    assert facts["problems"] == []
    assert facts["exit_status"] == 1
    assert not facts["passed"]


def test_the_json_knows_what_others_make_of_the_exit_status(
    lenient: pytest.Pytester, stubs: Stubs
) -> None:
    """Like pytest-cov with too little coverage."""
    lenient.makeconftest(
        """
        def pytest_sessionfinish(session):
            session.exitstatus = 1
        """
    )
    result = lenient.runpytest_subprocess(*stubs.options, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    facts = read_json(lenient.path / "report.json")
    assert (facts["exit_status"], facts["passed"]) == (1, False)


def test_a_report_that_cannot_be_written_in_the_end_fails_the_run(
    lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        from pathlib import Path

        def pytest_sessionfinish():
            Path("reports").rmdir()
            Path("reports").write_text("in the way")
        """
    )
    (lenient.path / "reports").mkdir()
    result = lenient.runpytest_subprocess(*stubs.options, "--robustness-json=reports/report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "Traceback" not in text_of(result)
    result.stdout.fnmatch_lines(
        [
            "joint ablation degrades *pass",
            "robustness: --robustness-json=reports/report.json could not be written: *",
        ]
    )


@pytest.mark.smoke
def test_a_killed_worker_is_a_failing_verdict(lenient: pytest.Pytester, stubs: Stubs) -> None:
    lenient.makepyfile(
        killing="""
        import os
        import signal

        def pytest_runtest_call(item):
            if item.name.startswith("test_joint"):
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    result = lenient.runpytest_subprocess(
        *stubs.options, "-n", "2", "-p", "killing", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines_random(
        ["*crashed while running*", f"robustness: {literal(NO_VERDICT)}"]
    )
    facts = read_json(lenient.path / "report.json")
    assert not facts["passed"]
    assert verdicts(facts) == dict.fromkeys(SUITE - {JOINT}, "pass")
