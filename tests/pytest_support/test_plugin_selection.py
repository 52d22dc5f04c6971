"""Parts of a run: selected, stopped, collected only, run again, and told how to report."""

import pytest

from tests.support.plugin.plugin_runs import JOINT
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    SUITE,
    Stubs,
    read_json,
    slowly_with_workers,
    text_of,
    verdicts,
    with_and_without_workers,
)


@slowly_with_workers
@pytest.mark.smoke
def test_collect_only_lists_the_checks_and_measures_nothing(
    state: tuple[str, ...], strict: pytest.Pytester, stubs: Stubs
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, *state, "--collect-only", "-q", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.OK
    assert {line for line in result.outlines if "::" in line} == SUITE
    result.stdout.fnmatch_lines(["6 tests collected in *"])
    assert not (strict.path / "report.json").exists()


@pytest.mark.parametrize(
    ("selection", "passed", "failed"),
    [
        pytest.param(("-k", f"dim{DIM}"), 2, 1, id="-k"),
        pytest.param(
            ("-k", f"dim{DIM}", "-n", "2"), 2, 1, id="-k with workers", marks=pytest.mark.slow
        ),
        pytest.param((f"--deselect={JOINT}",), 5, 0, id="--deselect"),
    ],
)
@pytest.mark.smoke
def test_a_selection_is_marked_as_partial(
    selection: tuple[str, ...], passed: int, failed: int, strict: pytest.Pytester, stubs: Stubs
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, *selection, "--robustness-json=report.json"
    )
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if failed else pytest.ExitCode.OK)
    deselected = 0 if "-n" in selection else 6 - passed - failed
    result.assert_outcomes(passed=passed, failed=failed, deselected=deselected)
    left_out = 6 - passed - failed
    result.stdout.fnmatch_lines(
        [
            f"robustness: PARTIAL, {left_out} of 6 planned checks are left out; *",
            f"*robustness: {LABEL} (PARTIAL)*",
            "PARTIAL: *",
        ]
    )
    assert text_of(result).count("robustness: PARTIAL") == 1
    facts = read_json(strict.path / "report.json")
    assert facts["partial"]
    assert len(verdicts(facts)) == passed + failed


def test_nothing_selected_is_no_pass(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        *stubs.options, "-m", "smoke", "-W", "ignore", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    facts = read_json(lenient.path / "report.json")
    assert facts["partial"]
    assert not facts["passed"]


@with_and_without_workers
@pytest.mark.smoke
def test_last_failed_runs_only_what_failed(
    state: tuple[str, ...], strict: pytest.Pytester, stubs: Stubs
) -> None:
    first = strict.runpytest_subprocess(*stubs.options, *state)
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    second = strict.runpytest_subprocess(
        *stubs.options, *state, "--lf", "--robustness-json=report.json"
    )
    assert second.ret == pytest.ExitCode.TESTS_FAILED
    assert second.parseoutcomes().get("failed") == 1
    assert second.parseoutcomes().get("passed") is None
    facts = read_json(strict.path / "report.json")
    assert verdicts(facts) == {JOINT: "fail"}
    assert facts["partial"]
    second.stdout.fnmatch_lines(["PARTIAL: *"])


@pytest.mark.parametrize("option", ["-x", pytest.param("--maxfail=1", marks=pytest.mark.slow)])
@slowly_with_workers
def test_stopping_early_is_no_pass(
    state: tuple[str, ...], option: str, strict: pytest.Pytester, stubs: Stubs
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, *state, option, "--robustness-json=report.json"
    )
    facts = read_json(strict.path / "report.json")
    assert not facts["passed"]
    assert verdicts(facts)[JOINT] == "fail"
    if "-n" in state:  # which tests have begun by then is a race; xdist calls it an interruption
        assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
        return
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=1)
    assert len(verdicts(facts)) == 4
    result.stdout.fnmatch_lines(["robustness: *random_ablation* was collected but gave no verdict"])


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        pytest.param(("-q",), True, id="-q"),
        pytest.param(("-v",), True, id="-v"),
        pytest.param(("--no-summary",), True, id="--no-summary"),
        pytest.param(("-p", "no:cacheprovider"), True, id="no:cacheprovider"),
        pytest.param(("-p", "no:terminal"), False, id="no:terminal"),
        pytest.param(("-p", "no:junitxml", "-s"), True, id="no:junitxml"),
    ],
)
@slowly_with_workers
def test_pytest_can_be_told_how_to_report(
    state: tuple[str, ...],
    options: tuple[str, ...],
    shown: bool,
    strict: pytest.Pytester,
    stubs: Stubs,
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, *state, *options, "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(read_json(strict.path / "report.json"))[JOINT] == "fail"
    text = text_of(result)
    assert ("joint ablation degrades" in text) == shown
    assert "Traceback" not in text
    assert (strict.path / ".pytest_cache").exists() == ("no:cacheprovider" not in options)


@slowly_with_workers
@pytest.mark.smoke
def test_it_works_without_autoloaded_plugins(
    state: tuple[str, ...],
    strict: pytest.Pytester,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    xdist = ("-p", "xdist") if "-n" in state else ()
    result = strict.runpytest_subprocess(
        "-p", "robustness.plugin", *xdist, *state, *stubs.options, "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    facts = read_json(strict.path / "report.json")
    assert verdicts(facts) == {**dict.fromkeys(SUITE, "pass"), JOINT: "fail"}


@slowly_with_workers
def test_the_suite_can_be_named(
    state: tuple[str, ...], strict: pytest.Pytester, stubs: Stubs
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, *state, "--robustness-json=report.json", "--pyargs", "robustness.suite"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=5, failed=1)
    facts = read_json(strict.path / "report.json")
    assert len(verdicts(facts)) == 6
    assert not facts["partial"]
    assert facts["problems"] == []


def test_one_test_of_the_suite_can_be_named(strict: pytest.Pytester, stubs: Stubs) -> None:
    name = JOINT.split("::")[-1]
    result = strict.runpytest_subprocess(
        *stubs.options, "--pyargs", f"robustness.suite.test_outliers::{name}"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["PARTIAL: *"])
