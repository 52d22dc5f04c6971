"""``pytest --model=X`` as a user or a CI job meets it, with workers, without, and without xdist."""

import math
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import plugin_support
from tests.plugin_support import (
    DIM,
    LABEL,
    OTHER_DIM,
    STATES,
    SUITE,
    Run,
    Stubs,
    checks,
    error_sentence,
    in_every_state,
    lasting,
    read_json,
    run_pytest,
    run_python,
    run_suite,
    slowly_with_workers,
    text_of,
    verdicts,
    with_and_without_workers,
)

stubs = plugin_support.stubs

JOINT = f"robustness/test_outliers.py::test_joint_ablation_degrades[{LABEL}-dim{DIM}]"
SINGLE = f"robustness/test_outliers.py::test_ablation_degrades[{LABEL}-dim{DIM}]"
FINITE = f"robustness/test_weights.py::test_weights_are_finite[{LABEL}]"
PRESENT = f"robustness/test_outliers.py::test_outliers_are_present[{LABEL}]"
NO_VERDICT = f"{JOINT} was collected but gave no verdict"
NESTED_FAR_TOO_STRICT = "checks.joint_ablation_degrades.min_ratio = 1000.0\n"
FAR_TOO_STRICT = "[checks.joint_ablation_degrades]\nmin_ratio = 1000.0\n"


# --- the suite as it is --------------------------------------------------------------------------


@dataclass(frozen=True)
class PassingRuns:
    """The stub vetted with nothing measured before, by one process and by two workers."""

    alone: Run
    with_workers: Run
    again: Run
    without_xdist: Run

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.alone, self.with_workers, self.again, self.without_xdist))


@pytest.fixture(scope="module")
def passing(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> PassingRuns:
    folder = tmp_path_factory.mktemp("passing")
    own_store = f"--robustness-store={folder / 'store'}"  # the last one counts
    return PassingRuns(
        alone=run_suite(folder / "alone", *stubs.options),
        with_workers=run_suite(
            folder / "workers", f"--robustness-model={stubs.model}", *stubs.surroundings, own_store,
            "-n", "2", "-v",
        ),
        again=run_suite(folder / "again", *stubs.options),
        without_xdist=run_suite(folder / "without", *stubs.options, *STATES["off"]),
    )  # fmt: skip


@pytest.mark.smoke
def test_the_packaged_suite_runs_in_an_empty_folder(passing: PassingRuns) -> None:
    for run in passing:
        assert run.result.ret == pytest.ExitCode.OK
        run.result.assert_outcomes(passed=6, skipped=0, warnings=0)
        assert run.verdicts == dict.fromkeys(SUITE, "pass")
        assert run.facts["passed"]
        assert run.facts["exit_status"] == 0
        assert run.facts["policy"] is None
        assert run.facts["problems"] == []
        assert not run.facts["partial"]
        assert "PARTIAL" not in text_of(run.result)
        assert run.facts["comparisons"] == 5


def test_every_check_counted_as_collected_is_run(passing: PassingRuns) -> None:
    """The opt-in check is in the suite's files, but in nobody's count."""
    passing.alone.result.stdout.fnmatch_lines(["collected 6 items"])


def test_the_run_leaves_nothing_behind_but_its_reports(passing: PassingRuns) -> None:
    for run in passing:
        left = {path.name for path in run.folder.iterdir()} - {".pytest_cache"}
        assert left == {"report.json", "junit.xml"}


def test_the_table_names_every_check_with_its_numbers(passing: PassingRuns) -> None:
    for run in passing:
        ratio = checks(run.facts)[JOINT]["ratio"]
        run.result.stdout.fnmatch_lines(
            [
                f"*= robustness: {LABEL} =*",
                "intact perplexity *",
                f"  dimension {DIM} in 2 of 2 layers (0-1): *",
                "weights are finite *pass",
                f"outliers are present *{DIM} *pass",
                f"ablation degrades *{DIM} *pass",
                f"joint ablation degrades *{DIM} *{ratio:.4g} *>= 1.5 *pass",
                "random ablation is harmless *1 random *< 1.1 *pass",
                f"outliers matter more than chance *{DIM} *pass",
            ]
        )


@pytest.mark.smoke
def test_workers_find_the_same_verdicts_and_numbers(passing: PassingRuns) -> None:
    alone, with_workers = checks(passing.alone.facts), checks(passing.with_workers.facts)
    assert list(alone) == list(with_workers)
    for name, check in alone.items():
        other = with_workers[name]
        for same in ("verdict", "text_blocks", "tokens", "dims", "exact", "threshold", "claim"):
            assert check[same] == other[same], (name, same)
        # A mean ΔNLL next to zero, which the factor divides by, is most of all rounding.
        tolerance = 1e-2 if "more_than_chance" in name else 1e-5
        for number in ("ratio", "interval"):
            assert (check[number] is None) == (other[number] is None)
            if check[number] is not None:
                assert other[number] == pytest.approx(check[number], rel=tolerance), name


def test_workers_are_told_by_name_which_test_they_run(passing: PassingRuns) -> None:
    passing.with_workers.result.stdout.fnmatch_lines([f"[[]gw?[]] * PASSED {_literal(JOINT)}*"])


def test_a_second_run_from_the_store_is_identical(passing: PassingRuns) -> None:
    assert lasting(passing.again.facts) == lasting(passing.alone.facts)
    assert lasting(passing.without_xdist.facts) == lasting(passing.alone.facts)


@pytest.mark.smoke
def test_junit_carries_the_numbers(passing: PassingRuns) -> None:
    for run in passing:
        by_name = {name.split("::")[-1]: check for name, check in checks(run.facts).items()}
        assert run.properties.keys() == by_name.keys()
        for name, check in by_name.items():
            found = run.properties[name]
            assert found["verdict"] == "pass"
            assert int(found["text_blocks"]) == check["text_blocks"]
            assert int(found["tokens"]) == check["tokens"]
            if check["ratio"] is not None:
                assert float(found["ratio"]) == float(check["ratio"])
                assert float(found["threshold"]) == check["threshold"]
            if check["interval"] is not None:
                assert float(found["interval_low"]) == check["interval"][0]
                assert float(found["interval_high"]) == check["interval"][1]


def test_the_json_says_what_was_vetted(passing: PassingRuns, stubs: Stubs) -> None:
    facts = passing.alone.facts
    assert facts["schema"] == 1
    assert facts["confidence"] == 0.99
    assert facts["alpha"] == pytest.approx(0.002)
    (checkpoint,) = facts["checkpoints"]
    assert checkpoint["label"] == LABEL
    assert checkpoint["reference"] == str(stubs.model)
    assert checkpoint["architecture"] == "BertForMaskedLM"
    assert (checkpoint["layers"], checkpoint["hidden_size"]) == (2, 32)
    assert [outlier["dim"] for outlier in checkpoint["outliers"]] == [DIM]
    assert checkpoint["scoring"] == "masked"
    assert 1 < checkpoint["perplexity"] < 64
    assert checkpoint["quantity"] == "perplexity"
    assert checkpoint["nats_per_token"] == pytest.approx(math.log(checkpoint["perplexity"]))
    assert checkpoint["chance_nats_per_token"] == pytest.approx(math.log(checkpoint["vocabulary"]))
    assert (checkpoint["masking"], checkpoint["bos"]) == ("all", "auto")
    assert checkpoint["generator"] is checkpoint["context"] is None
    nats = checkpoint["bits_per_byte"] * checkpoint["utf8_bytes"] * math.log(2)
    assert math.exp(nats / checkpoint["words"]) == pytest.approx(checkpoint["word_perplexity"])


def test_the_json_carries_what_a_picture_needs(passing: PassingRuns, stubs: Stubs) -> None:
    for run in passing:
        (checkpoint,) = run.facts["checkpoints"]
        sites = checkpoint["sites"]
        for name in ("scale", "bias", "scale_z", "bias_z"):
            assert [len(row) for row in sites[name]] == [32, 32]
        for outlier in checkpoint["outliers"]:
            shown = [row[outlier["dim"]] for row in sites["scale_z"]]
            assert shown == pytest.approx(outlier["z_scale"], rel=1e-3)
        for check in checkpoint["checks"]:
            assert "examples" not in check
            if check["ratio"] is not None:
                last = check["course"][-1]
                assert {name: last[name] for name in ("text_blocks", "ratio", "interval")} == {
                    name: check[name] for name in ("text_blocks", "ratio", "interval")
                }
        assert len(checkpoint["examples"]) == 3
        for example in checkpoint["examples"]:
            assert example["dims"] == [DIM]
            text = "".join(piece["text"] for piece in example["pieces"])
            assert text in stubs.corpus.read_text().replace("\n", " ")
    numbers = [run.facts["checkpoints"][0]["examples"] for run in passing]
    assert numbers[2] == numbers[3] == numbers[0]
    assert [[p["text"] for p in e["pieces"]] for e in numbers[1]] == [
        [p["text"] for p in e["pieces"]] for e in numbers[0]
    ]


def test_the_json_says_how_to_run_it_again(passing: PassingRuns, stubs: Stubs) -> None:
    command = shlex.split(passing.alone.facts["command"])
    reports = ["--robustness-json=report.json", "--junitxml=junit.xml"]
    assert command == ["pytest", *stubs.options, *reports]


@in_every_state
@pytest.mark.smoke
def test_one_failing_verdict_fails_the_run(
    state: tuple[str, ...], stubs: Stubs, tmp_path: Path, passing: PassingRuns
) -> None:
    del passing  # has measured what this needs
    (tmp_path / "robustness.toml").write_text(FAR_TOO_STRICT)
    run = run_suite(tmp_path, *stubs.options, *state)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    run.result.assert_outcomes(passed=5, failed=1)
    assert run.verdicts == {**dict.fromkeys(SUITE, "pass"), JOINT: "fail"}
    assert not run.facts["passed"]
    assert run.properties[JOINT.split("::")[-1]]["verdict"] == "fail"
    ratio = f"{checks(run.facts)[JOINT]['ratio']:.4g}"
    run.result.stdout.fnmatch_lines(
        [
            f"FAIL: ablating dimension {DIM} multiplies perplexity by at least 1000",
            f"measured {ratio} (*) against 1000, estimated from * text blocks *",
            f"again: pytest *-k 'test_joint_ablation_degrades[[]{LABEL}-dim{DIM}[]]'*",
            f"joint ablation degrades * {ratio} * fail",
            f"FAILED {JOINT}*",
        ]
    )
    assert "Traceback" not in text_of(run.result)


@pytest.fixture
def strict(
    pytester: pytest.Pytester, passing: PassingRuns, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """An empty folder but for a policy under which the joint ablation fails."""
    del passing  # has measured what the tests need
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (pytester.path / "robustness.toml").write_text(FAR_TOO_STRICT)
    return pytester


@pytest.fixture
def lenient(strict: pytest.Pytester) -> pytest.Pytester:
    """An empty folder; all verdicts pass."""
    (strict.path / "robustness.toml").unlink()
    return strict


def test_the_failure_says_how_to_run_only_it_again(strict: pytest.Pytester, stubs: Stubs) -> None:
    name = JOINT.split("::")[-1]
    result = strict.runpytest_subprocess(*stubs.options, "-k", name)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, deselected=5)


@slowly_with_workers
def test_one_of_two_checkpoints_can_be_run_again(
    state: tuple[str, ...], strict: pytest.Pytester, stubs: Stubs
) -> None:
    """By the command that the failure prints; or only what failed last."""
    models = (f"--model={stubs.model}", f"--model={stubs.other}", *stubs.surroundings)
    policy = strict.path / "robustness.toml"
    policy.write_text(f'[checkpoints."{stubs.other}"]\n{NESTED_FAR_TOO_STRICT}')
    first = strict.runpytest_subprocess(*models, *state)
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    # Once with the failure; in CI, where pytest shortens nothing, once more in its last lines.
    (command,) = {line for line in first.outlines if line.startswith("again: pytest ")}
    policy.unlink()
    for arguments in (
        [*models, *state, "--lf"],
        shlex.split(command.removeprefix("again: pytest ")),
    ):
        result = strict.runpytest_subprocess(*arguments, "--robustness-json=report.json")
        assert result.ret == pytest.ExitCode.OK
        assert result.parseoutcomes()["passed"] == 1
        facts = read_json(strict.path / "report.json")
        assert facts["problems"] == []
        assert facts["partial"]
        assert not facts["passed"]


# --- selecting, stopping, quiet ------------------------------------------------------------------


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


# --- which checks a checkpoint gets --------------------------------------------------------------


@slowly_with_workers
def test_checkpoints_of_the_same_name_are_told_apart(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    result = lenient.runpytest_subprocess(
        f"--model={stubs.model}", f"--model={stubs.other}", *stubs.surroundings, *state,
        "--robustness-json=report.json",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=12)
    facts = read_json(lenient.path / "report.json")
    assert facts["comparisons"] == 10
    assert facts["alpha"] == pytest.approx(0.001)
    first, second = facts["checkpoints"]
    assert (first["label"], second["label"]) == (f"a-{LABEL}", f"b-{LABEL}")
    assert [outlier["dim"] for outlier in second["outliers"]] == [OTHER_DIM]
    assert len(first["checks"]) == len(second["checks"]) == 6
    assert f"test_ablation_degrades[b-{LABEL}-dim{OTHER_DIM}]" in "".join(verdicts(facts))
    result.stdout.fnmatch_lines([f"*= robustness: a-{LABEL} =*", f"*= robustness: b-{LABEL} =*"])


def test_an_opt_in_check_can_be_asked_for(lenient: pytest.Pytester, stubs: Stubs) -> None:
    """By its name with or without ``test_``."""
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-enable=magnitude_alone_is_harmless",
        "--robustness-enable=test_magnitude_alone_is_harmless", "--robustness-json=report.json",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=7, skipped=0)
    facts = read_json(lenient.path / "report.json")
    assert facts["comparisons"] == 6
    (added,) = verdicts(facts).keys() - SUITE
    assert added.startswith(
        f"robustness/test_controls.py::test_magnitude_alone_is_harmless[{LABEL}-dim"
    )


@pytest.mark.parametrize("compared", [False, True])
def test_layers_can_be_looked_at_one_by_one(
    compared: bool, lenient: pytest.Pytester, stubs: Stubs
) -> None:
    if compared:
        (lenient.path / "robustness.toml").write_text("[checks.layer_profile]\nmax_ratio = 1.0\n")
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-enable=embedding_norm_alone_is_harmless",
        "--robustness-enable=layer_profile", "--robustness-json=report.json",
        "-k", "embedding or profile",
    )  # fmt: skip
    result.assert_outcomes(passed=2 - compared, failed=compared, deselected=6)
    facts = read_json(lenient.path / "report.json")
    assert facts["comparisons"] == 6 + compared  # what is only recorded is no comparison
    found = {check["check"]: check for check in checks(facts).values()}
    embedding = found["test_embedding_norm_alone_is_harmless"]
    assert (embedding["verdict"], embedding["threshold"]) == ("pass", 1.5)
    assert "(site embedding-norm)" in embedding["claim"]
    profile = found["test_layer_profile"]
    assert profile["verdict"] == ("fail" if compared else "pass")
    ratios = [layer["ratio"] for layer in profile["details"]["layer_profile"]]
    assert len(ratios) == 2
    assert ratios[1] == profile["ratio"] > 2 > ratios[0]  # the head reads the last layer
    line = f"layer profile: largest x{ratios[1]:.4g} in layer 1, x{ratios[0]:.4g} in layer 0"
    assert profile["reason"] == line
    result.stdout.fnmatch_lines([line])


def test_a_run_can_ablate_at_another_site(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-site=residual", "--robustness-mode=mean",
        "--robustness-json=report.json", "-k", "joint or random",
    )  # fmt: skip
    # In the stub the dimension is the same everywhere: its mean is as good as itself.
    result.assert_outcomes(passed=1, failed=1, deselected=4)
    result.stdout.fnmatch_lines(["  ablations (site residual, mode mean)"])
    facts = read_json(lenient.path / "report.json")
    (checkpoint,) = facts["checkpoints"]
    assert (checkpoint["site"], checkpoint["mode"]) == ("residual", "mean")
    assert (checkpoint["stack"], checkpoint["ablated_layers"]) == ("only", "all")
    for check in checks(facts).values():
        assert "(site residual, mode mean)" in check["claim"]
        assert check["ratio"] == pytest.approx(1, abs=0.05)


def test_a_check_can_be_switched_off(lenient: pytest.Pytester, stubs: Stubs) -> None:
    (lenient.path / "robustness.toml").write_text(
        "[checks.joint_ablation_degrades]\nenabled = false\n"
    )
    result = lenient.runpytest_subprocess(*stubs.options, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=5, skipped=0)
    facts = read_json(lenient.path / "report.json")
    assert verdicts(facts).keys() == SUITE - {JOINT}
    assert not facts["partial"]


@slowly_with_workers
def test_no_outliers_fail_where_the_paper_expects_them(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    result = lenient.runpytest_subprocess(
        f"--model={stubs.plain}", *stubs.surroundings, *state, "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, skipped=4)
    result.stdout.fnmatch_lines(
        [
            "no outlier dimensions were found: this can mean an undertrained model, *",
            "*ablation degrades *not applicable",
        ]
    )
    by_test = {
        name.partition("::")[2].partition("[")[0]: verdict
        for name, verdict in verdicts(read_json(lenient.path / "report.json")).items()
    }
    assert by_test == {
        "test_weights_are_finite": "pass",
        "test_outliers_are_present": "fail",
        "test_ablation_degrades": "not applicable",
        "test_joint_ablation_degrades": "not applicable",
        "test_random_ablation_is_harmless": "not applicable",
        "test_outliers_matter_more_than_chance": "not applicable",
    }


def test_a_hardened_model_without_outliers_passes(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        f"--model={stubs.plain}", *stubs.surroundings, "--robustness-profile=hardened",
        "--robustness-json=report.json",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2, skipped=4)
    facts = read_json(lenient.path / "report.json")
    assert facts["passed"]
    assert sorted(verdicts(facts).values()) == ["not applicable"] * 4 + ["pass"] * 2


def test_not_applicable_needs_a_verdict_on_the_outliers(
    lenient: pytest.Pytester, stubs: Stubs
) -> None:
    result = lenient.runpytest_subprocess(
        f"--model={stubs.plain}", *stubs.surroundings, "--robustness-profile=hardened",
        "-k", "joint",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["robustness: *test_joint_ablation_degrades* is not applicable, but *gave no verdict"]
    )


def test_a_model_with_outliers_is_not_hardened(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-profile=hardened", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=2, skipped=1)
    found = verdicts(read_json(lenient.path / "report.json"))
    assert (found[SINGLE], found[JOINT], found[PRESENT]) == ("fail", "fail", "pass")
    assert [name for name, verdict in found.items() if verdict == "not applicable"] == [
        f"robustness/test_controls.py::test_outliers_matter_more_than_chance[{LABEL}-dim{DIM}]"
    ]


def test_undecided_is_no_pass(lenient: pytest.Pytester, stubs: Stubs, passing: PassingRuns) -> None:
    control = f"robustness/test_controls.py::test_random_ablation_is_harmless[{LABEL}-1random]"
    median = checks(passing.alone.facts)[control]["ratio"]
    (lenient.path / "robustness.toml").write_text(
        f"[checks.random_ablation_is_harmless]\nmax_ratio = {median!r}\nmax_draws = 128\n"
    )
    result = lenient.runpytest_subprocess(*stubs.options, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    facts = read_json(lenient.path / "report.json")
    assert verdicts(facts)[control] == "inconclusive"
    assert not facts["passed"]
    result.stdout.fnmatch_lines(["INCONCLUSIVE: *", "random ablation * inconclusive"])


def test_the_whole_corpus_can_be_asked_for(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-exhaustive", "-k", "joint or finite",
        "--robustness-json=report.json",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.OK
    facts = read_json(lenient.path / "report.json")
    (checkpoint,) = facts["checkpoints"]
    assert checkpoint["exhaustive"]
    for check in checks(facts).values():
        assert check["exact"]
        assert check["interval"] is None
        assert check["text_blocks"] == checkpoint["corpus_text_blocks"] == 156


@pytest.mark.slow
@pytest.mark.parametrize("how", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"])
def test_any_way_to_distribute_tests_will_do(
    how: str, strict: pytest.Pytester, stubs: Stubs
) -> None:
    result = strict.runpytest_subprocess(
        *stubs.options, "-n", "2", "--dist", how, "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    facts = read_json(strict.path / "report.json")
    assert verdicts(facts) == {**dict.fromkeys(SUITE, "pass"), JOINT: "fail"}
    assert facts["problems"] == []


@pytest.fixture(scope="module")
def broken(stubs: Stubs) -> Path:
    """A checkpoint with NaN where no rule looks."""
    from safetensors.torch import load_file, save_file

    folder = plugin_support.save_stub(stubs.root / "broken", DIM)
    tensors = {
        name: value.clone() for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors["bert.encoder.layer.1.intermediate.dense.bias"][3] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@with_and_without_workers
def test_nothing_measured_passes_on_a_broken_model(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs, broken: Path
) -> None:
    result = lenient.runpytest_subprocess(
        f"--model={broken}", *stubs.surroundings, *state, "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=5)
    text = text_of(result)
    assert "Traceback" not in text
    assert "MeasurementError: the intact model's negative log-likelihood is not a finite" in text
    assert "def test_" not in text  # no source of the suite: the sentence says it all
    found = verdicts(read_json(lenient.path / "report.json"))
    assert found[FINITE.replace(LABEL, "broken")] == "fail"
    assert found[PRESENT.replace(LABEL, "broken")] == "pass"  # by the weights it has looked at
    assert sorted(found.values()) == ["error"] * 4 + ["fail", "pass"]
    result.stdout.fnmatch_lines(["1 tensors hold NaN*intermediate.dense.bias", "joint*error"])


# --- fail closed ---------------------------------------------------------------------------------

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
    result.stdout.fnmatch_lines([f"robustness: {_literal(NO_VERDICT)}"])
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
    result.stdout.fnmatch_lines([f"robustness: {_literal(JOINT)} *"])
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
        ["*crashed while running*", f"robustness: {_literal(NO_VERDICT)}"]
    )
    facts = read_json(lenient.path / "report.json")
    assert not facts["passed"]
    assert verdicts(facts) == dict.fromkeys(SUITE - {JOINT}, "pass")


def _literal(text: str) -> str:
    """The text as a pattern that matches nothing else."""
    return text.replace("[", "[[]")


# --- manners -------------------------------------------------------------------------------------


@slowly_with_workers
@pytest.mark.smoke
def test_a_name_that_is_taken_is_left_to_its_owner(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--model", default="T", help="of a Ford")

        def pytest_report_header(config):
            return f"the model is {config.getoption('--model')}"
        """
    )
    lenient.makepyfile("def test_it(): pass")
    theirs = lenient.runpytest_subprocess("--model=A", *state)
    assert theirs.ret == pytest.ExitCode.OK
    theirs.assert_outcomes(passed=1)
    theirs.stdout.fnmatch_lines(["the model is A"])
    assert "robustness:" not in text_of(theirs)

    ours = lenient.runpytest_subprocess(
        f"--robustness-model={stubs.model}", *stubs.surroundings, *state
    )
    assert ours.ret == pytest.ExitCode.OK
    ours.assert_outcomes(passed=6)
    ours.stdout.fnmatch_lines(["the model is T"])


@in_every_state
@pytest.mark.smoke
def test_without_a_model_it_is_invisible(state: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_passes(): pass
        def test_fails(): assert False
        def test_mine(vetting): raise AssertionError("must not run")
        """
    )
    result = pytester.runpytest_subprocess(*state, "-rs", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * needs a checkpoint: run pytest with --model=*"])
    rest = [line for line in result.outlines if not line.startswith("plugins:")]
    assert "robustness" not in "\n".join(rest)
    pytesters_own = {"__pycache__", "stdout", "stderr", "runpytest-0", "runpytest-current"}
    written = {path.name for path in pytester.path.iterdir()} - pytesters_own
    assert written == {"test_without_a_model_it_is_invisible.py"}


HEAVY = {"torch", "transformers", "datasets", "tokenizers", "huggingface_hub", "safetensors"}
IMPORTED_WITHOUT_A_MODEL = {
    "robustness",
    "robustness.plugin",
    "robustness.pytest_support",
    "robustness.pytest_support.fixtures",
}
LISTING_MODULES = """
import sys, pytest
code = pytest.main(sys.argv[1:])
print("modules:", *sys.modules)
sys.exit(code)
"""


def _imported(folder: Path, *args: str, ret: pytest.ExitCode) -> set[str]:
    """Modules that a run of pytest has imported."""
    (folder / "listing.py").write_text(LISTING_MODULES)
    result = run_python(folder, "listing.py", *args)
    assert result.ret == ret
    return set(result.outlines[-1].split()[1:])


def test_without_a_model_nothing_heavy_is_imported(tmp_path: Path) -> None:
    modules = _imported(tmp_path, "--collect-only", ret=pytest.ExitCode.NO_TESTS_COLLECTED)
    ours = {name for name in modules if name.partition(".")[0] == "robustness"}
    assert ours == IMPORTED_WITHOUT_A_MODEL
    heavy = {*HEAVY, "numpy", "pydantic", "filelock", "scipy"}
    assert {name.partition(".")[0] for name in modules}.isdisjoint(heavy)


def test_without_a_model_it_costs_no_start_up_time(tmp_path: Path) -> None:
    """Its own modules only: whoever is first to import argparse is charged for it.

    They are imported here as a run imports them, but by name: ``-X importtime`` does not see
    what pytest itself loads from entry points.
    """
    assert min(_own_import_ms(tmp_path) for _ in range(3)) < 10


def _own_import_ms(folder: Path) -> float:
    statement = f"import pytest, {', '.join(sorted(IMPORTED_WITHOUT_A_MODEL))}"
    result = run_python(folder, "-X", "importtime", "-c", statement)
    assert result.ret == pytest.ExitCode.OK
    entries = [line.split("|") for line in result.errlines if line.startswith("import time:")]
    spent = {name.strip(): own.partition(":")[2] for own, _, name in entries}
    return sum(float(spent[name]) for name in IMPORTED_WITHOUT_A_MODEL) / 1000


def test_a_run_from_the_store_imports_no_machine_learning(
    stubs: Stubs, tmp_path: Path, passing: PassingRuns
) -> None:
    del passing  # has measured everything
    modules = _imported(tmp_path, *stubs.options, ret=pytest.ExitCode.OK)
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()


def test_the_suite_without_a_model_is_a_usage_problem(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--pyargs", "robustness.suite")
    assert error_sentence(result) == "the packaged suite needs a checkpoint: add --model=X"


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")
    assert result.ret == pytest.ExitCode.OK
    listed = {
        word.partition("=")[0]
        for line in result.outlines
        for word in line.replace(",", " ").split()[:1]
        if word.startswith(("--robustness-", "--model"))
    }
    assert listed == {
        "--model",
        *(
            f"--robustness-{name}"
            for name in (
                "model", "corpus", "layout", "block-size", "masking", "generator", "bos",
                "context", "profile", "rule", "stack", "site", "mode", "enable", "confidence",
                "exhaustive", "seed", "device", "dtype", "policy", "json", "store", "fresh",
                "store-limit", "baseline", "save-baseline", "plan", "shard", "github", "html",
                "examples", "task",
            )
        ),
    }  # fmt: skip


# --- code in a checkpoint's folder ---------------------------------------------------------------


@pytest.fixture
def hostile(stubs: Stubs, pytester: pytest.Pytester) -> Path:
    """A checkpoint with files that pytest would run; each would leave a mark."""
    import shutil

    folder = pytester.path / "downloads" / "hostile"
    shutil.copytree(stubs.model, folder)
    mark = f"open({str(pytester.path / 'executed')!r}, 'a').write(__name__)\n"
    (folder / "conftest.py").write_text(mark)
    (folder / "test_evil.py").write_text(f"{mark}def test_evil(): pass\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    return folder


def _nothing_was_executed(pytester: pytest.Pytester) -> bool:
    return not (pytester.path / "executed").exists()


@slowly_with_workers
def test_code_in_a_checkpoint_is_never_run(
    state: tuple[str, ...], hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess(f"--model={hostile}", *stubs.surroundings, *state)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6)
    assert _nothing_was_executed(pytester)


def test_collecting_beside_a_checkpoint_leaves_it_out(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    (hostile / "pytest.ini").unlink()
    (hostile.parent / "test_good.py").write_text("def test_good(vetting): assert vetting\n")
    result = pytester.runpytest_subprocess(f"--model={hostile}", *stubs.surroundings, ".")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    assert _nothing_was_executed(pytester)


def test_a_checkpoint_folder_with_the_name_of_a_test_folder_is_not_imported_from(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    """pytest imports ``test*/conftest.py`` below the folder it is started in."""
    folder = hostile.rename(pytester.path / "testing-7b")
    result = pytester.runpytest_subprocess(f"--model={folder}", *stubs.surroundings)
    assert "conftest.py" in error_sentence(result)
    assert _nothing_was_executed(pytester)


@with_and_without_workers
@pytest.mark.smoke
def test_a_space_instead_of_the_equals_sign_is_refused(
    state: tuple[str, ...], hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess("--model", str(hostile), *stubs.surroundings, *state)
    sentence = error_sentence(result)
    assert "with the equals sign" in sentence
    assert f"--model={hostile}" in sentence
    assert _nothing_was_executed(pytester)


def test_a_space_is_refused_without_an_ini_file_too(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    (hostile / "pytest.ini").unlink()
    result = pytester.runpytest_subprocess(*stubs.surroundings, "--model", str(hostile))
    assert "with the equals sign" in error_sentence(result)
    assert _nothing_was_executed(pytester)


@pytest.mark.parametrize("ini", [True, False], ids=["ini file", "no ini file"])
def test_running_inside_a_checkpoint_is_refused(
    ini: bool, hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    if not ini:
        (hostile / "pytest.ini").unlink()
    pytester.path.joinpath("elsewhere").mkdir()
    result = run_pytest(hostile, "--model=.", *stubs.surroundings)
    assert "run from another folder" in error_sentence(result)
    assert _nothing_was_executed(pytester)
