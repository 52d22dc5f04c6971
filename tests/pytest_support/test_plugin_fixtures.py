"""Users' own tests with the fixtures ``checkpoint`` and ``vetting``."""

import pytest

from tests.support.plugin import plugin_support
from tests.support.plugin.plugin_support import (
    DIM,
    HIDDEN_SIZE,
    LABEL,
    OTHER_DIM,
    Stubs,
    in_every_state,
    read_json,
    slowly_with_workers,
    text_of,
)

PASSING = f"""
    from pathlib import Path

    import pytest

    def test_checkpoint(checkpoint):
        assert checkpoint.architecture == "BertForMaskedLM"
        assert checkpoint.scoring == "masked"
        assert (Path(checkpoint.folder) / "config.json").is_file()

    def test_outliers(vetting):
        found = vetting.outliers()
        assert list(found) == [{DIM}]
        assert {DIM} in found
        assert len(found) == 1
        assert found[0].layers == (0, 1)
        assert vetting.outliers(rule="busters").dims == found.dims
        assert repr(found).endswith("dimension {DIM}>")

    def test_ablation(vetting):
        verdict = vetting.ablate(vetting.outliers()).degrades(by=1.5)
        assert verdict
        assert verdict.measured > 2
        assert verdict.seen >= 32
        assert vetting.ablate([0, 1]).is_harmless(within=1.1)
        assert vetting.ablate({DIM}, layers=[1]).degrades(by=1.05, confidence=0.9)

    @pytest.mark.parametrize("size", [1, 2])
    def test_control(vetting, size):
        assert vetting.ablate_random(size).is_harmless(within=1.1)

    def test_both(checkpoint, vetting):
        assert vetting.checkpoint is checkpoint
"""

FAILING = f"""
    def test_degrades(vetting):
        assert vetting.ablate(vetting.outliers()).degrades(by=1000)

    def test_harmless(vetting):
        assert vetting.ablate({DIM}).is_harmless(within=1.01)

    def test_control(vetting):
        assert vetting.ablate_random(1).is_harmless(within=0.5)

    def test_out_of_range(vetting):
        vetting.ablate({HIDDEN_SIZE})

    def test_negative(vetting):
        vetting.ablate(-1)

    def test_none(vetting):
        vetting.ablate([])

    def test_layer(vetting):
        vetting.ablate(0, layers=[2]).is_harmless(within=2)

    def test_rule(vetting):
        vetting.outliers(rule="bustres")

    def test_site(vetting):
        vetting.ablate(0, site="middle")

    def test_too_many(vetting):
        vetting.ablate_random({HIDDEN_SIZE})

    def test_confidence(vetting):
        vetting.ablate(0).is_harmless(within=2, confidence=1.0)
"""


@in_every_state
def test_own_tests_can_ask_for_verdicts(
    state: tuple[str, ...], pytester: pytest.Pytester, stubs: Stubs
) -> None:
    path = pytester.makepyfile(PASSING)
    result = pytester.runpytest_subprocess(*stubs.options, *state, str(path))
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6, warnings=0)
    assert "PARTIAL" not in text_of(result)  # the packaged suite was not asked for


def test_tests_beside_are_left_alone_without_a_path(
    pytester: pytest.Pytester, stubs: Stubs
) -> None:
    pytester.makepyfile("def test_mine(vetting): assert False")
    result = pytester.runpytest_subprocess(*stubs.options, "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["6 tests collected in *"])


@slowly_with_workers
def test_failures_show_the_numbers(
    state: tuple[str, ...], pytester: pytest.Pytester, stubs: Stubs
) -> None:
    path = pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess(*stubs.options, *state, str(path))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=11)
    result.stdout.fnmatch_lines_random(
        [
            f"E * <FAIL: ablating dimension {DIM} multiplies perplexity by at least 1000; "
            "measured 4.* (* to *) against 1000>",
            f"E * <FAIL: ablating dimension {DIM} multiplies perplexity by less than 1.01; "
            "measured 4.* (* to *) against 1.01>",
            "E * <FAIL: the median ablation of 1 random dimension multiplies perplexity by less "
            "than 0.5; measured 1.* (* to *) against 0.5>",
            f"E * dimension {HIDDEN_SIZE} is out of range: the hidden size is {HIDDEN_SIZE}",
            "RuleError: unknown rule 'bustres'; known: busters, puccetti, *",
            "UnsupportedSite: *'middle'*",
            f"MeasurementError: cannot ablate {HIDDEN_SIZE} random dimensions: there are "
            f"{HIDDEN_SIZE - 1} that are not outliers, so there is no control; *",
            "PolicyError: confidence must be at least 0.5 and below 1, not 1.0",
        ]
    )


@slowly_with_workers
def test_own_tests_run_for_every_checkpoint(
    state: tuple[str, ...], pytester: pytest.Pytester, stubs: Stubs
) -> None:
    path = pytester.makepyfile(
        test_mine=f"""
        def test_outlier(vetting, record_property):
            (dim,) = vetting.outliers()
            record_property("dim", dim)
            assert (dim == {DIM}) == ("/a/" in vetting.checkpoint.reference)
            assert vetting.ablate(dim).degrades(by=1.5)

        def test_unrelated(): pass
        """
    )
    result = pytester.runpytest_subprocess(
        f"--model={stubs.model}", f"--model={stubs.other}", *stubs.surroundings, *state,
        "-v", "--junitxml=junit.xml", str(path),
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3)
    for label in (f"a-{LABEL}", f"b-{LABEL}"):
        result.stdout.fnmatch_lines([f"*test_mine.py::test_outlier[[]{label}[]]*"])
    properties = plugin_support.junit_properties(pytester.path / "junit.xml")
    assert properties[f"test_outlier[a-{LABEL}]"] == {"dim": str(DIM)}
    assert properties[f"test_outlier[b-{LABEL}]"] == {"dim": str(OTHER_DIM)}


def test_own_tests_may_have_the_names_of_the_suites(
    pytester: pytest.Pytester, stubs: Stubs
) -> None:
    """They are no verdicts, and none is missing for them."""
    path = pytester.makepyfile("def test_weights_are_finite(vetting): assert vetting.outliers()")
    result = pytester.runpytest_subprocess(
        *stubs.options, "--robustness-json=report.json", str(path)
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    facts = read_json(pytester.path / "report.json")
    assert facts["problems"] == []
    assert facts["checkpoints"][0]["checks"] == []


def test_own_tests_and_the_suite_in_one_run(pytester: pytest.Pytester, stubs: Stubs) -> None:
    path = pytester.makepyfile("def test_mine(vetting): assert vetting.outliers()")
    result = pytester.runpytest_subprocess(
        *stubs.options, "--robustness-json=report.json", "--pyargs", "robustness.suite", str(path)
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=7)
    facts = read_json(pytester.path / "report.json")
    assert not facts["partial"]
    assert len(facts["checkpoints"][0]["checks"]) == 6


def test_the_fixtures_live_in_classes_and_fixtures(pytester: pytest.Pytester, stubs: Stubs) -> None:
    path = pytester.makepyfile(
        f"""
        import unittest
        import pytest

        @pytest.fixture
        def found(vetting):
            return list(vetting.outliers())

        class TestMine:
            @pytest.mark.parametrize("n", [1, 2])
            def test_found(self, found, n):
                assert found == [{DIM}]
        """
    )
    result = pytester.runpytest_subprocess(*stubs.options, str(path))
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


def test_indirect_use_is_explained(pytester: pytest.Pytester, stubs: Stubs) -> None:
    """``getfixturevalue`` comes too late to parametrise a test by checkpoint."""
    path = pytester.makepyfile("def test_late(request): request.getfixturevalue('vetting')\n")
    result = pytester.runpytest_subprocess(*stubs.options, str(path))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the fixtures checkpoint and vetting must be arguments of *"])
