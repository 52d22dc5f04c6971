"""A run's account in a model card: written, read back, and put into a card that others wrote."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.errors import ReportError
from robustness.report.collected import Ending, check_result, collected
from robustness.report.json_document import as_json
from robustness.report.markdown.card import chosen, eval_results, section
from robustness.report.markdown.card_file import BEGIN, END, TASK_NAME, new_card, updated
from robustness.report.parts import TaskResult
from robustness.report.results import Report
from robustness.statistics.details import Details
from robustness.statistics.figures import IntactFigures
from robustness.statistics.verdict import Verdict
from tests.support.records.plans import plan
from tests.support.records.run_reports import shard

HOSTILE = f"x{END}|`</code>\n---\nlicense: evil\x1b[31m [a](javascript:1) <img src=x> ::error::"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def report(
    *labels: str, failing: str | None = None, corpus: str | None = None, **changes: Any
) -> Report:
    """A run in which every check passed but those of one checkpoint's kind."""
    planned = plan(*(labels or ("bert",)))
    if corpus is not None:
        points = tuple(replace(point, corpus=corpus) for point in planned.checkpoints)
        planned = replace(planned, checkpoints=points)
    intact = IntactFigures(
        perplexity=5.5,
        nats_per_token=1.7,
        chance_nats_per_token=4.2,
        text_blocks=156,
        tokens=2900,
    )
    results = {}
    for point in planned.checkpoints:
        for number, check in enumerate(point.checks):
            bad = failing == point.label and check.check == "ablation_degrades"
            verdict = Verdict(
                outcome="fail" if bad else "pass",
                statement="it is so",
                measured=None if check.check == "outliers_are_present" else 1.5 + number,
                interval=(1.25, 9.5),
                threshold=1.05,
                passes="above",
                seen=32,
                details=Details(intact=intact),
            )
            name = check.test_name(point.label)
            results[name] = check_result(f"x::{name}", check, verdict)
    ending = Ending(
        partial=False,
        problems=(),
        exit_status=int(failing is not None),
        started=datetime(2026, 11, 24, tzinfo=UTC),
        duration_s=1.0,
    )
    return collected(planned, results, ending).model_copy(update=changes)


def run(found: Report | dict[str, Any], *options: str) -> Result:
    text = json.dumps(found if isinstance(found, dict) else as_json(found))
    Path("result.json").write_text(text)
    return CliRunner().invoke(app, ["card", "result.json", *options])


def test_the_entries_are_read_back_as_they_were_written() -> None:
    found = report()
    assert run(found, "--repo-id=org/name", "--output=card.md").exit_code == 0
    card: Any = ModelCard.load("card.md")
    assert card.data.model_name == "name"
    assert card.data.eval_results == eval_results(found, found.checkpoints[0])
    by_name = {result.metric_name: result for result in card.data.eval_results or ()}
    assert by_name["Perplexity"].metric_value == 5.5
    assert by_name["Outlier dimensions"].metric_args == {"dims": [7], "rule": "busters"}
    alone = by_name["ablation degrades, dimension 7"]
    (check,) = [
        check for check in found.checkpoints[0].checks if check.check == "ablation_degrades"
    ]
    assert alone.metric_value == check.measured
    assert alone.metric_args["interval"] == [1.25, 9.5]
    card.save("again.md")
    again: Any = ModelCard.load("again.md")
    assert again.data.eval_results == card.data.eval_results


def test_the_section_says_what_was_vetted_and_how_to_repeat_it() -> None:
    found = report()
    text = section(found, found.checkpoints[0], repo_id="org/name")
    assert "**Vetting passed**: 6 of 6 checks" in text
    assert "| 7 | 2 of 2 (0-1) | +5.0 | +9.0 | 3.5 |" in text
    assert "<code>pytest --model=org/name</code>" in text
    changes = {"expectation": "hardened", "seed": 3, "exhaustive": True}
    other = found.checkpoints[0].model_copy(update=changes)
    text = section(found, other, repo_id=None)
    assert (
        "pytest --model=organisation/bert --robustness-expectation=hardened --robustness-seed=3 "
        "--robustness-exhaustive"
    ) in text


def test_text_and_a_task_are_told_in_sentences() -> None:
    found = report()
    task = TaskResult(
        name="glue/mrpc",
        reference="glue/mrpc",
        kind="classification",
        metric="accuracy",
        architecture="BertForSequenceClassification",
        examples=408,
        score=0.9,
        score_examples=408,
    )
    both = found.checkpoints[0].model_copy(update={"task": task})
    text = section(found, both, repo_id=None)
    assert "text blocks; and on the task glue/mrpc; accuracy 0.9 over 408 of 408 examples." in text
    assert "the model intact; of a task's checks, measured is" in text
    assert "&#32;" not in text
    alone = section(found, found.checkpoints[0], repo_id=None)
    assert "and on" not in alone


CARD = f"""---
# who may use it
license: mit   # a comment
tags: [a,  'b']

model-index:
- name: theirs
  results:
  - task: {{type: fill-mask}}
    dataset: {{name: GLUE, type: glue}}
    metrics:
    - {{type: accuracy, value: 0.9, unknown: kept}}
  - task: {{type: fill-mask, name: {TASK_NAME}}}
    dataset: {{name: old, type: old}}
    metrics:
    - {{type: perplexity, value: 1.0}}
# about languages
language: en
---
# Ours

Words before.

{BEGIN}
old
{END}

Words behind.
"""


def test_the_rest_of_a_card_stays_as_it_is() -> None:
    """Also others' entries, comments and quotes; twice gives the same file."""
    Path("README.md").write_text(CARD)
    assert run(report(), "--update=README.md").exit_code == 0
    text = Path("README.md").read_text()
    start, end = CARD.index("model-index:"), CARD.index("# about languages")
    assert text.startswith(CARD[:start])
    assert CARD[end : CARD.index(BEGIN)] in text
    assert text.endswith(CARD[CARD.index(END) :])
    assert "name: old" not in text
    assert "\nold\n" not in text
    data = yaml.safe_load(text.split("---\n")[1])
    (index,) = data["model-index"]
    theirs, ours = index["results"]
    assert theirs["metrics"] == [{"type": "accuracy", "value": 0.9, "unknown": "kept"}]
    assert (index["name"], ours["task"]["name"]) == ("theirs", TASK_NAME)
    assert run(report(), "--update=README.md").exit_code == 0
    assert Path("README.md").read_text() == text


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# Title\n\nText without front matter\n",
        "---\nlicense: mit\n---\nText",
        "---\r\nlicense: mit\r\n---\r\n# Title\r\n",
        "---\n---\n",
        "---\nmodel-index:\nlicense: mit\n---\n",
        "Text\n\n---\n\nand a rule\n\n---\n",
        '---\n"model-index": []\n---\n',
    ],
)
def test_cards_of_all_kinds_are_updated_once(card: str) -> None:
    found = report()
    point = found.checkpoints[0]
    parts = "bert", section(found, point, repo_id=None), eval_results(found, point)
    once = updated(card, *parts)
    assert updated(once, *parts) == once
    assert once.count(BEGIN) == once.count(END) == 1
    read: Any = ModelCard(once)
    assert read.data.eval_results == parts[2]
    assert ("\r\n" in card) == ("\r\n" in once)
    if "\r\n" in card:
        assert "\n" not in once.replace("\r\n", "")


@pytest.mark.parametrize(
    ("card", "named"),
    [
        (f"{BEGIN} {BEGIN} {END}", "once each"),
        (f"{END} {BEGIN}", "once each"),
        (BEGIN, "once each"),
        ("---\na: [\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "not a table"),
        ("---\nmodel-index: 3\n---\n", "not a list of names"),
        ("---\nmodel-index: [1]\n---\n", "not a list of names"),
        ("---\n{model-index: [], license: mit}\n---\n", "front matter"),
        ("---\na: &x [1]\nmodel-index: &y []\nb: *y\n---\n", "front matter"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused_and_untouched(card: str, named: str) -> None:
    Path("README.md").write_text(card)
    result = run(report(), "--update=README.md")
    assert result.exit_code == 2
    assert named in result.stderr
    assert Path("README.md").read_text() == card


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=12), st.none() | st.integers() | st.text(max_size=20)))
def test_any_front_matter_keeps_its_other_keys(keys: dict[str, Any]) -> None:
    keys.pop("model-index", None)
    card = f"---\n{yaml.safe_dump(keys)}---\ntext\n" if keys else "text\n"
    found = report()
    results = eval_results(found, found.checkpoints[0])
    once = updated(card, "bert", "section", results)
    assert updated(once, "bert", "section", results) == once
    known = yaml.safe_load(once[4 : once.index("\n---\n")])
    assert known.pop("model-index")
    assert known == keys


def test_hostile_names_stay_text() -> None:
    found = report(corpus=HOSTILE)
    names = dict.fromkeys(("reference", "revision", "architecture"), HOSTILE)
    point = found.checkpoints[0].model_copy(update=names)
    results = eval_results(found, point)
    text = new_card(HOSTILE, section(found, point, repo_id=None), results)
    assert "\nlicense" not in text
    assert updated(text, "x", section(found, point, repo_id=None), results) == text
    card: Any = ModelCard(text)
    assert "license" not in card.data.to_dict()
    assert card.data.eval_results == results
    body = card.text
    assert body.count(BEGIN) == body.count(END) == 1
    for active in ("<img", "](java", "\x1b", "::error", "\n---"):
        assert active not in body


def test_a_failed_run_writes_nothing_unless_it_may() -> None:
    result = run(report(failing="bert"), "--output=card.md")
    assert result.exit_code == 1
    assert "bert did not pass" in result.stderr
    assert not Path("card.md").exists()
    assert run(report(failing="bert"), "--output=card.md", "--allow-failed").exit_code == 0
    assert "**Vetting FAILED**: 5 of 6 checks" in Path("card.md").read_text()
    problem = run(report(problems=("a worker was killed",), passed=False), "--allow-failed")
    assert "**Vetting FAILED**: 6 of 6" in problem.stdout
    assert "a worker was killed" in problem.stdout


def test_of_several_one_is_named_and_the_others_do_not_matter() -> None:
    both = report("a", "b", failing="b")
    result = run(both)
    assert result.exit_code == 2
    assert "holds a, b" in result.stderr
    assert run(both, "--checkpoint=a").exit_code == 0
    assert run(both, "--checkpoint=b").exit_code == 1
    assert run(both, "--checkpoint=c").exit_code == 2
    # Something else failed that is in no check: nobody knows what.
    unexplained = report("a", "b", exit_status=1, passed=False)
    assert run(unexplained, "--checkpoint=a").exit_code == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"partial": True, "passed": False}, "PARTIAL"),
        ({"shard": shard(1, 2).model_dump(mode="json"), "passed": False}, "merge"),
        ({"schema": 99}, "schema 99"),
        ({"schema": 1}, "schema 1, and this version reads schema 3"),
        ({"checkpoints": []}, "holds none"),
        (
            {"checkpoints": [{"label": "x"}]},
            "is not the JSON report of a run: checkpoints.0.reference",
        ),
    ],
)
def test_what_is_no_verdict_is_refused(changes: dict[str, Any], named: str) -> None:
    for options in ((), ("--allow-failed",)):
        result = run({**as_json(report()), **changes}, "--output=card.md", *options)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert named in line
    assert not Path("card.md").exists()


def test_wrong_options_are_refused() -> None:
    good = report()
    assert run(good, "--output=a.md", "--update=b.md").exit_code == 2
    assert run(good, "--repo-id=../x").exit_code == 2
    assert run(good, "--update=missing.md").exit_code == 2
    assert run(good, "--output=missing/folder/card.md").exit_code == 0
    Path("mine.md").write_text("mine")
    assert run(good, "--output=mine.md").exit_code == 2
    assert Path("mine.md").read_text() == "mine"
    with pytest.raises(ReportError, match="PARTIAL"):
        chosen(good.model_copy(update={"partial": True}), None)
