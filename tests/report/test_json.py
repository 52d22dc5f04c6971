"""The JSON report: its published schema, what it holds, and that it is read as it was written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.errors import ReportError, ShardError
from robustness.report.json_document import as_json, parsed, read_report, render, sealed
from robustness.report.merge import parse_shard
from robustness.report.results import CheckResult, Report
from robustness.report.schema import schema_text
from robustness.statistics.details import Details
from robustness.statistics.figures import DrawFigures, IntactFigures, TaskFigures
from tests.support.records import full_reports as full
from tests.support.records.run_reports import check, checkpoint, intact, run, shard_report

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_published_schema_is_that_of_the_model() -> None:
    """Else: ``python -m robustness.report.schema docs/report.schema.json``."""
    assert (DOCS / "report.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_says_what_every_part_is() -> None:
    schema = json.loads(schema_text())
    assert schema["properties"]["schema"] == {
        "const": 3,
        "description": "the number of this schema, ``schema`` in JSON.",
        "type": "integer",
    }
    for name, model in schema["$defs"].items():
        assert name == "JsonValue" or model["description"]
        assert "Attributes" not in model.get("description", "")


def test_a_report_has_what_its_schema_says(tmp_path: Path) -> None:
    schema = json.loads(schema_text())
    models = {"Report": schema, **schema["$defs"]}
    found = as_json(full.run())
    assert list(found) == [key for key in schema["properties"] if key != "sha256"]
    for part, name in (
        (found["checkpoints"][0], "CheckpointResult"),
        (found["checkpoints"][0]["checks"][0], "CheckResult"),
        (found["checkpoints"][0]["outliers"][0], "OutlierDimension"),
    ):
        assert list(part) == list(models[name]["properties"]) == models[name]["required"]
    file = tmp_path / "report.json"
    file.write_text(render(full.run()), encoding="utf-8")
    assert read_report(file) == full.run()


measured = st.floats(allow_nan=False)


@given(value=measured, low=measured, high=measured, statement=st.text())
def test_a_worker_s_check_arrives_as_it_was_sent(
    value: float, low: float, high: float, statement: str
) -> None:
    """Also infinities, which JSON has no word for."""
    sent = check(measured=value, interval=(low, high), statement=statement)
    assert CheckResult.model_validate_json(sent.model_dump_json()) == sent


def test_numbers_stand_in_a_line_and_infinities_are_text() -> None:
    text = render(full.run())
    assert '"interval": [40.0, "inf"]' in text
    assert '"dims": [7]' in text
    assert json.loads(text)["checkpoints"][0]["checks"][1]["measured"] == "inf"


def test_infinite_draws_are_text() -> None:
    draws = DrawFigures(draws=2, mean=math.inf, by_draw=(1.5, math.inf))
    found = json.loads(check(details=Details(draws=draws)).model_dump_json())
    assert found["details"] == {
        "draws": {"draws": 2, "mean": "inf", "quantiles": {}, "worst": [], "by_draw": [1.5, "inf"]}
    }


def test_names_that_are_no_text_become_escapes() -> None:
    report = run(checkpoint(reference="caf\udce9"), command="pytest --model=caf\udce9")
    assert json.loads(render(report))["command"] == "pytest --model=caf\\udce9"


def test_the_intact_model_is_told_by_the_check_that_saw_most() -> None:
    """Whichever that is; a task's score likewise."""

    def task(examples: int, score: float) -> TaskFigures:
        return TaskFigures(
            name="sst2",
            metric="accuracy",
            intact_score=score,
            ablated_score=0.5,
            examples=examples,
            task_examples=64,
        )

    def seeing(blocks: int, perplexity: float, **more: Any) -> CheckResult:
        figures: IntactFigures = intact(perplexity, text_blocks=blocks)
        return check(details=Details(intact=figures, **more))

    checks = [
        seeing(32, 20.0),
        seeing(156, 21.0, task=task(32, 0.8)),
        check(details=Details(task=task(640, 0.9))),
    ]
    found = checkpoint().with_checks(checks)
    assert found.intact is not None
    assert (found.intact.perplexity, found.intact.text_blocks) == (21.0, 156)
    assert checkpoint().with_checks([check()]).intact is None


@pytest.mark.parametrize("number", [0, 1, 2, 4, 10**30])
def test_another_schema_is_refused_by_its_number_before_anything_else(number: int) -> None:
    text = json.dumps({"schema": number, "checkpoints": "no list"}).encode()
    with pytest.raises(ReportError, match=rf"^it has schema {number}, and this version reads"):
        parsed(text, "it", error=ReportError)
    with pytest.raises(ShardError, match=rf"^it has schema {number}, and this version reads"):
        parse_shard(text, "it")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("schema",), "2", "schema"),
        (("schema",), True, "schema"),
        (("partial",), 0, "partial"),
        (("duration_s",), "12", "duration_s"),
        (("more",), 1, "more"),
        (("checkpoints", 0, "outliers", 0, "dim"), 7.0, "outliers.0.dim"),
        (("checkpoints", 0, "checks", 0, "outcome"), "passed", "checks.0.outcome"),
        (("checkpoints", 0, "checks", 0, "measured"), "3", "checks.0.measured"),
        (("checkpoints", 0, "checks", 0, "details"), {"more": 1}, "checks.0.details.more"),
    ],
)
def test_whatever_is_of_another_type_is_refused(
    path: tuple[str | int, ...], value: Any, named: str, tmp_path: Path
) -> None:
    found: Any = as_json(full.run())
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "report.json"
    file.write_text(json.dumps(found))
    with pytest.raises(ReportError, match=f"is not the JSON report of a run: .*{named}"):
        read_report(file)


def test_a_seal_is_of_everything() -> None:
    report = sealed(shard_report())
    text = render(report)
    assert parse_shard(text.encode(), "it") == report.model_copy(update={"sha256": None})
    assert sealed(report) == report
    changed = text.replace('"exit_status": 0', '"exit_status": 1')
    with pytest.raises(ShardError, match="its checksum does not match"):
        parse_shard(changed.encode(), "it")
    bare: Report = shard_report()
    with pytest.raises(ShardError, match="not the report of a shard: sha256 is missing"):
        parse_shard(render(bare).encode(), "it")
    assert math.isclose(bare.duration_s, 75.2)
