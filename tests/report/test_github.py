"""What a run tells GitHub Actions: annotations that nothing can forge, and the job's summary."""

import html
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustness.checks.planned import ExpectedFailure
from robustness.report.github import (
    MOST,
    annotations,
    as_output,
    command,
    is_wanted,
    publish,
    publish_refusal,
)
from robustness.report.markdown.page import MOST_BYTES
from robustness.report.results import Report
from robustness.runtime.plain import plain
from tests.support.plugin.github_runner import Command, obeyed
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    Stubs,
    in_every_state,
    read_json,
    slowly_with_workers,
    text_of,
    verdicts,
)
from tests.support.records.run_reports import HOSTILE, check, checkpoint, run

TEXT = st.one_of(
    st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4).map("".join),
    st.text(max_size=40),
)
TOO_STRICT = "[checks.joint_ablation_degrades]\nmin_ratio = 1000.0\n"


# --- the lines -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(title=TEXT, message=TEXT)
def test_a_command_is_one_line_that_says_what_it_was_given(title: str, message: str) -> None:
    """For the runner: exactly one command, with just this title and message."""
    (found,) = obeyed(command("warning", f"x {title} x", message + "."))
    assert found == Command(
        name="warning",
        properties={"title": plain(f"x {title} x")},
        data=plain(message + "."),
    )


@settings(deadline=None)
@given(label=TEXT, reason=TEXT, problem=TEXT)
def test_no_name_can_forge_a_command(label: str, reason: str, problem: str) -> None:
    report = run(
        checkpoint(label, checks=[check("fail", reason=reason), check(reason=label)]),
        checkpoint(reason, checks=[check("error", reason=problem)]),
        problems=[problem],
    )
    found = obeyed("\n".join(annotations(report)))
    assert [each.name for each in found] == ["error"] * 3
    titles = ["robustness: did not pass", *(f"robustness: {name}" for name in (reason, label))]
    assert [each.properties["title"].rstrip() for each in found] == [
        plain(title).rstrip() for title in titles
    ]
    assert found[0].data.rstrip() == plain(problem).rstrip()


def test_each_checkpoint_has_one_annotation_with_its_worst_check() -> None:
    expected = ExpectedFailure(reason="old", expires="2030-01-01", expired=False)
    known = check("fail", expected_failure=expected)
    report = run(
        checkpoint("good", checks=[check(), check("not applicable", measured=None)]),
        checkpoint("known", checks=[check(), known]),
        checkpoint("bad", checks=[check(), check("fail", measured=1.2, reason="so near"), check()]),
        checkpoint("not vetted", checks=[]),
    )
    told = [(each.name, each.properties["title"], each.data) for each in obeyed_of(report)]
    assert told == [
        (
            "error",
            "robustness: bad",
            "FAIL: joint ablation degrades (dim 7): fail, measured 1.2 (3 to inf), needed >= 1.5; "
            "so near; that is what the paper found in BERT, and no damage where it does not hold: "
            "--reference=ORIGINAL asks whether this is still the model that it came from.",
        ),
        ("warning", "robustness: known", f"PASS: {FOUND} (1 failing as expected)."),
        ("notice", "robustness: good", f"PASS: {FOUND} (1 not applicable)."),
    ]


FOUND = "its outlier dimension is 7; ablating it multiplies perplexity by 4"
RANDOM = "ablating a random one multiplies perplexity by 1.002."
VETTED = f"its outlier dimension is {DIM}; ablating it multiplies perplexity by 4.005"


def obeyed_of(report: Report) -> list[Command]:
    return obeyed("\n".join(annotations(report)))


def test_a_run_that_fails_as_a_whole_says_so_first() -> None:
    report = run(checkpoint(), problems=["a gave no verdict", "b gave no verdict"])
    first, second = obeyed_of(report)
    assert (first.name, first.data) == ("error", "a gave no verdict (and 1 more problems)")
    assert second.name == "notice"
    partial = obeyed_of(run(checkpoint(), partial=True, passed=False))
    assert [each.name for each in partial] == ["warning", "notice"]


@pytest.mark.parametrize("n", [1, MOST, MOST + 1, 37])
def test_github_shows_ten_of_a_kind_so_no_more_are_written(n: int) -> None:
    failing = [checkpoint(f"bad-{i}", checks=[check("fail")]) for i in range(n)]
    passing = [checkpoint(f"good-{i}") for i in range(n)]
    found = obeyed_of(run(*passing, *failing))
    for kind in ("error", "notice"):
        data = [each.data for each in found if each.name == kind]
        assert len(data) == min(n, MOST)
        if n > MOST:
            assert data[-1] == f"and {n - MOST + 1} more, in the job summary and the log"


def test_a_stream_that_lacks_a_letter_gets_its_escape() -> None:
    lines = annotations(run(checkpoint("modèle"), checkpoint("模型")))
    for encoding in ("ascii", "latin-1", "utf-8", None):
        text = as_output(lines, encoding)
        text.encode(encoding or "utf-8")
        assert len(obeyed(f"mid-line{text}")) == 2
    assert "mod\\xe8le" in as_output(lines, "ascii")


def test_when_it_is_wanted() -> None:
    within, outside = {"GITHUB_ACTIONS": "true"}, {"GITHUB_ACTIONS": "false"}
    assert is_wanted("auto", within)
    assert not is_wanted("auto", outside)
    assert not is_wanted("auto", {})
    assert is_wanted("always", {})
    assert not is_wanted("never", within)


# --- the summary ---------------------------------------------------------------------------------


def test_the_summary_is_added_to_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("# Of another step's tool\n")
    publish(run(checkpoint()), {"GITHUB_STEP_SUMMARY": str(file)})
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Of another step's tool\n\n## Checkpoint vetting: passed\n")


@pytest.mark.parametrize("there", [0, 500_000, MOST_BYTES - 2000, MOST_BYTES - 10, MOST_BYTES])
def test_the_summary_never_grows_beyond_what_github_takes(there: int, tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_bytes(b"x" * there)
    report = run(*(checkpoint(f"{n}-{'x' * 180}") for n in range(900)))
    lines = publish(report, {"GITHUB_STEP_SUMMARY": str(file)})
    assert there <= file.stat().st_size <= MOST_BYTES
    told = [each for each in obeyed("\n".join(lines)) if each.name == "warning"]
    if there >= MOST_BYTES - 10:
        assert file.stat().st_size == there
        assert "GitHub takes 1 MiB" in told[0].data
    else:
        assert told == []
        assert "left out" in file.read_text(encoding="utf-8").casefold()


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    lines = publish(run(checkpoint()), {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "such")})
    notice, warning = obeyed("\n".join(lines))
    assert (notice.name, warning.name) == ("notice", "warning")
    assert "could not be written" in warning.data
    assert "the verdict stands all the same" in warning.data


@settings(deadline=None)
@given(sentence=TEXT)
def test_a_refusal_is_told_too(sentence: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("refused") / "summary.md"
    (found,) = obeyed("\n".join(publish_refusal(sentence, {"GITHUB_STEP_SUMMARY": str(file)})))
    assert found.name == "error"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("## Checkpoint vetting: refused\n\nNothing ran: ")
    assert len(text.splitlines()) == 3
    assert obeyed(text) == []


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def job(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of GitHub's, with the file of its summary."""
    file = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    return file


def told(result: pytest.RunResult) -> list[Command]:
    return obeyed("\n".join(result.outlines))


@in_every_state
def test_a_job_gets_one_annotation_per_checkpoint_and_a_summary(
    state: tuple[str, ...], job: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    """Written once, by the controller alone."""
    (pytester.path / "robustness.toml").write_text(TOO_STRICT)
    result = pytester.runpytest_subprocess(*stubs.options, *state, "--robustness-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (found,) = told(result)
    assert (found.name, found.properties) == ("error", {"title": f"robustness: {LABEL}"})
    assert found.data.startswith(f"FAIL: joint ablation degrades (dim {DIM}): fail, measured ")
    text = job.read_text(encoding="utf-8")
    assert text.count("## Checkpoint vetting: did not pass") == 1
    assert f"### \N{CROSS MARK} <code>{LABEL}</code>" in text
    assert len(verdicts(read_json(pytester.path / "report.json"))) == 6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-p", "no:terminal"), id="no:terminal"),
        pytest.param(("-q",), id="-q"),
        pytest.param(("-s",), id="-s", marks=pytest.mark.slow),
        pytest.param(("--capture=sys", "--no-summary"), id="sys", marks=pytest.mark.slow),
    ],
)
def test_annotations_do_not_hang_on_how_pytest_reports(
    options: tuple[str, ...], job: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess(*stubs.options, *options)
    assert result.ret == pytest.ExitCode.OK
    (found,) = told(result)
    assert (found.name, found.data) == (
        "notice",
        f"PASS: {VETTED}; {RANDOM}",
    )
    assert "## Checkpoint vetting: passed" in job.read_text(encoding="utf-8")


@slowly_with_workers
def test_a_missing_verdict_reaches_the_job(
    state: tuple[str, ...], job: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    pytester.makepyfile(
        hiding="""
        import pytest

        def pytest_runtest_setup(item):
            if item.name.startswith("test_joint"):
                pytest.skip("::error::not today")
        """
    )
    result = pytester.runpytest_subprocess(*stubs.options, *state, "-p", "hiding", "-rs")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    problem, rest = told(result)
    assert problem.properties["title"] == "robustness: did not pass"
    assert "was collected but gave no verdict" in problem.data
    assert (rest.name, rest.data) == (
        "notice",
        f"PASS: its outlier dimension is {DIM}; {RANDOM}",
    )
    text = html.unescape(job.read_text(encoding="utf-8"))
    assert text.startswith("## Checkpoint vetting: did not pass\n")
    assert "- **Problem:** robustness/test_outliers.py::test_joint_ablation_degrades[" in text


def test_a_refused_run_reaches_the_job(job: Path, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--model=./nothing-here")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (found,) = told(result)
    assert found.properties == {"title": "robustness: refused"}
    assert "nothing-here" in found.data
    assert not found.data.startswith("robustness")
    assert "nothing-here" in job.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "actions", "annotated", "summarised"),
    [
        ("never", "true", False, False),
        ("auto", "", False, False),
        ("always", "", True, True),
    ],
)
def test_it_can_be_switched(
    option: str,
    actions: str,
    annotated: bool,
    summarised: bool,
    job: Path,
    pytester: pytest.Pytester,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", actions)
    result = pytester.runpytest_subprocess(*stubs.options, f"--robustness-github={option}")
    assert result.ret == pytest.ExitCode.OK
    assert bool(told(result)) == annotated
    assert job.exists() == summarised


def test_an_unwritable_summary_leaves_the_verdict_alone_and_is_told(
    pytester: pytest.Pytester, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path))  # a folder
    result = pytester.runpytest_subprocess(*stubs.options)
    assert result.ret == pytest.ExitCode.OK
    assert [each.name for each in told(result)] == ["notice", "warning"]
    assert "the job summary could not be written" in text_of(result)


def test_nothing_is_written_where_nothing_was_decided(
    job: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    pytester.makepyfile("def test_mine(): pass")
    for arguments in (("--collect-only",), ("--robustness-plan",), ("test_*.py",)):
        result = pytester.runpytest_subprocess(*stubs.options, *arguments)
        assert told(result) == []
    assert not job.exists()
