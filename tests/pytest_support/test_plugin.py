"""``pytest --model=X`` as a user or a CI job meets it, with workers, without, and without xdist."""

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin.plugin_runs import (
    FAR_TOO_STRICT,
    JOINT,
    NESTED_FAR_TOO_STRICT,
    literal,
)
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    STATES,
    SUITE,
    Run,
    Stubs,
    checks,
    in_every_state,
    lasting,
    read_json,
    run_suite,
    slowly_with_workers,
    text_of,
)

# --- the suite as it is --------------------------------------------------------------------------


@dataclass(frozen=True)
class PassingRuns:
    """The stub vetted with nothing measured before, by one process and by two workers.

    These are runs of Python itself, ``again`` and ``without_xdist`` start warm.
    """

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
        alone=run_suite(folder / "alone", *stubs.options, python=sys.executable),
        with_workers=run_suite(
            folder / "workers", f"--robustness-model={stubs.model}", *stubs.surroundings, own_store,
            "-n", "2", "-v", python=sys.executable,
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
        ratio = checks(run.facts)[JOINT]["measured"]
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
        for same in ("outcome", "seen", "tokens", "dims", "exact", "threshold", "statement"):
            assert check[same] == other[same], (name, same)
        # A mean ΔNLL next to zero, which the factor divides by, is most of all rounding.
        tolerance = 1e-2 if "more_than_chance" in name else 1e-5
        for number in ("measured", "interval"):
            assert (check[number] is None) == (other[number] is None)
            if check[number] is not None:
                assert other[number] == pytest.approx(check[number], rel=tolerance), name


def test_workers_are_told_by_name_which_test_they_run(passing: PassingRuns) -> None:
    passing.with_workers.result.stdout.fnmatch_lines([f"[[]gw?[]] * PASSED {literal(JOINT)}*"])


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
            assert int(found["text_blocks"]) == check["seen"]
            assert int(found["tokens"]) == check["tokens"]
            if check["measured"] is not None:
                assert float(found["measured"]) == float(check["measured"])
                assert float(found["threshold"]) == check["threshold"]
            if check["interval"] is not None:
                assert float(found["interval_low"]) == check["interval"][0]
                assert float(found["interval_high"]) == check["interval"][1]


def test_the_json_says_what_was_vetted(passing: PassingRuns, stubs: Stubs) -> None:
    facts = passing.alone.facts
    assert facts["schema"] == 3
    assert facts["confidence"] == 0.99
    assert facts["alpha"] == pytest.approx(0.002)
    (checkpoint,) = facts["checkpoints"]
    assert checkpoint["label"] == LABEL
    assert checkpoint["reference"] == str(stubs.model)
    assert checkpoint["architecture"] == "BertForMaskedLM"
    assert (checkpoint["layers"], checkpoint["hidden_size"]) == (2, 32)
    assert [outlier["dim"] for outlier in checkpoint["outliers"]] == [DIM]
    assert checkpoint["scoring"] == "masked"
    assert checkpoint["quantity"] == "perplexity"
    intact = checkpoint["intact"]
    assert 1 < intact["perplexity"] < 64
    assert intact["nats_per_token"] == pytest.approx(math.log(intact["perplexity"]))
    assert intact["chance_nats_per_token"] == pytest.approx(math.log(checkpoint["vocabulary"]))
    assert (checkpoint["masking"], checkpoint["bos"]) == ("all", "auto")
    assert checkpoint["generator"] is checkpoint["context"] is None
    text = intact["text"]
    nats = text["bits_per_byte"] * text["utf8_bytes"] * math.log(2)
    assert math.exp(nats / text["words"]) == pytest.approx(text["word_perplexity"])


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
            if check["measured"] is not None:
                last = check["history"][-1]
                assert {name: last[name] for name in ("seen", "measured", "interval")} == {
                    name: check[name] for name in ("seen", "measured", "interval")
                }
        assert len(examples(run)) == 3
        for example in examples(run):
            assert example["dims"] == [DIM]
            text = "".join(piece["text"] for piece in example["pieces"])
            assert text in stubs.corpus.read_text().replace("\n", " ")
    numbers = list(map(examples, passing))
    assert numbers[2] == numbers[3] == numbers[0]
    assert [[p["text"] for p in e["pieces"]] for e in numbers[1]] == [
        [p["text"] for p in e["pieces"]] for e in numbers[0]
    ]


def examples(run: Run) -> list[dict[str, Any]]:
    """What the check on all dimensions shows."""
    found: list[dict[str, Any]] = checks(run.facts)[JOINT]["examples"]
    return found


def test_the_json_says_how_to_run_it_again(passing: PassingRuns, stubs: Stubs) -> None:
    command = shlex.split(passing.alone.facts["command"])
    reports = ["--robustness-json=report.json", "--junitxml=junit.xml"]
    assert command == ["pytest", *stubs.options, *reports]


@in_every_state
@pytest.mark.smoke
def test_one_failing_verdict_fails_the_run(
    state: tuple[str, ...], stubs: Stubs, tmp_path: Path, measured: dict[str, Any]
) -> None:
    del measured  # what this needs is in the store
    (tmp_path / "robustness.toml").write_text(FAR_TOO_STRICT)
    run = run_suite(tmp_path, *stubs.options, *state)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    run.result.assert_outcomes(passed=5, failed=1)
    assert run.verdicts == {**dict.fromkeys(SUITE, "pass"), JOINT: "fail"}
    assert not run.facts["passed"]
    assert run.properties[JOINT.split("::")[-1]]["verdict"] == "fail"
    ratio = f"{checks(run.facts)[JOINT]['measured']:.4g}"
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
