"""Which checks a checkpoint gets, and what they say of sound, plain and broken models."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints.checkpoint_folders import rewrite_weights
from tests.support.plugin import plugin_support
from tests.support.plugin.plugin_runs import FINITE, JOINT, PRESENT, SINGLE
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    OTHER_DIM,
    SUITE,
    Stubs,
    checks,
    in_every_state,
    read_json,
    slowly_with_workers,
    text_of,
    verdicts,
    with_and_without_workers,
)


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
    embedding = found["embedding_norm_alone_is_harmless"]
    assert (embedding["outcome"], embedding["threshold"]) == ("pass", 1.5)
    assert "(site embedding-norm)" in embedding["statement"]
    profile = found["layer_profile"]
    assert profile["outcome"] == ("fail" if compared else "pass")
    ratios = [layer["ratio"] for layer in profile["details"]["layers"]]
    assert len(ratios) == 2
    assert ratios[1] == profile["measured"] > 2 > ratios[0]  # the head reads the last layer
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
        assert "(site residual, mode mean)" in check["statement"]
        assert check["measured"] == pytest.approx(1, abs=0.05)


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
        f"--model={stubs.plain}", *stubs.surroundings, "--robustness-expectation=hardened",
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
        f"--model={stubs.plain}", *stubs.surroundings, "--robustness-expectation=hardened",
        "-k", "joint",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["robustness: *test_joint_ablation_degrades* is not applicable, but *gave no verdict"]
    )


def test_a_model_with_outliers_is_not_hardened(lenient: pytest.Pytester, stubs: Stubs) -> None:
    result = lenient.runpytest_subprocess(
        *stubs.options, "--robustness-expectation=hardened", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=2, skipped=1)
    found = verdicts(read_json(lenient.path / "report.json"))
    assert (found[SINGLE], found[JOINT], found[PRESENT]) == ("fail", "fail", "pass")
    assert [name for name, verdict in found.items() if verdict == "not applicable"] == [
        f"robustness/test_controls.py::test_outliers_matter_more_than_chance[{LABEL}-dim{DIM}]"
    ]


def test_undecided_is_no_pass(
    lenient: pytest.Pytester, stubs: Stubs, measured: dict[str, Any]
) -> None:
    control = f"robustness/test_controls.py::test_random_ablation_is_harmless[{LABEL}-1random]"
    median = checks(measured)[control]["measured"]
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
        assert check["seen"] == checkpoint["corpus_text_blocks"] == 156


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
    return _broken_at("intermediate.dense.bias", stubs.root / "broken")


def _broken_at(name: str, folder: Path) -> Path:
    """A checkpoint with NaN in one tensor of its second layer."""
    plugin_support.save_stub(folder, DIM)

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"bert.encoder.layer.1.{name}"][3] = float("nan")

    rewrite_weights(folder, change)
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


@in_every_state
def test_numbers_that_the_rule_cannot_compare_are_verdicts_and_no_refusal(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs, tmp_path: Path
) -> None:
    folder = _broken_at("output.LayerNorm.weight", tmp_path / "broken")
    result = lenient.runpytest_subprocess(
        f"--model={folder}", *stubs.surroundings, *state, "--robustness-json=report.json",
        "--robustness-rule=busters", "--robustness-rule=kurtosis", "--robustness-html=report.html",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=2, skipped=4)
    text = text_of(result)
    assert "Traceback" not in text
    assert "1 tensors hold NaN or infinity, the first is bert.encoder.layer.1" in text
    report = read_json(lenient.path / "report.json")
    found = {
        check["check"]: (check["outcome"], check["reason"])
        for check in report["checkpoints"][0]["checks"]
    }
    assert found.pop("weights_are_finite")[0] == "fail"
    outcome, why = found.pop("outliers_are_present")
    assert outcome == "error"
    assert "the scale of dimension 3 in layer 1 is not a finite number" in why
    assert set(found.values()) == {("not applicable", why)}
    assert report["problems"] == []


@in_every_state
def test_a_control_that_cannot_draw_is_an_error_in_a_sentence(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    """A rule that flags more dimensions than it leaves; what needs no draws has its verdict."""
    (lenient.path / "robustness.toml").write_text(
        "[rules.busters]\nk = 0.16\n[checks.outliers_are_present]\nmax = 32\n"
    )
    result = lenient.runpytest_subprocess(
        *stubs.options, *state, "--robustness-json=report.json",
        "-k", "present or joint or test_random or chance",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = read_json(lenient.path / "report.json")
    flagged = len(report["checkpoints"][0]["outliers"])
    assert plugin_support.HIDDEN_SIZE / 2 < flagged < plugin_support.HIDDEN_SIZE
    found = {check["check"]: check for check in checks(report).values()}
    why = (
        f"cannot ablate {flagged} random dimensions: there are "
        f"{plugin_support.HIDDEN_SIZE - flagged} that are not outliers, so there is no control; "
        "choose a stricter rule or setting of it"
    )
    for name in ("random_ablation_is_harmless", "outliers_matter_more_than_chance"):
        assert (found[name]["outcome"], found[name]["reason"]) == ("error", why)
    assert found["outliers_are_present"]["outcome"] == "pass"
    assert found["joint_ablation_degrades"]["outcome"] == "pass"
    text = text_of(result)
    assert "Traceback" not in text
    assert "def test_" not in text
    assert text.count(f"MeasurementError: {why}") >= 2
    assert report["problems"] == []
