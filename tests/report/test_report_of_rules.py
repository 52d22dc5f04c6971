"""Several rules in one run: which agree on which dimensions, on the terminal and in JSON."""

import dataclasses
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustness.outliers.outliers import Detection, Outlier
from robustness.outliers.rules import RULES
from robustness.report import words
from robustness.report.collected import Ending, check_result, collected
from robustness.report.json_document import as_json
from robustness.report.terminal import header
from robustness.report.terminal import summary as terminal
from robustness.run.plan import RunPlan
from robustness.statistics.verdict import Verdict
from tests.support.plugin.plugin_support import DIM, LABEL, Stubs, error_sentence, run_suite
from tests.support.records.plans import plan


def found(name: str, *dims: int, by_chance: float | None = 1e-9) -> Detection:
    return Detection(
        rule=f"{name}: in some way",
        outliers=tuple(
            Outlier(dim=dim, layers=(0, 1), statistics={"|value|": (-3.0, math.inf)})
            for dim in dims
        ),
        by_chance=by_chance,
        magnitude=(),
        details={"kurt": [math.inf]},
    )


def planned(*detections: Detection) -> RunPlan:
    made = plan("bert")
    (only,) = made.checkpoints
    primary, *compared = detections
    model_profile = dataclasses.replace(
        only.model_profile, detection=primary, compared=tuple(compared)
    )
    return dataclasses.replace(
        made, checkpoints=(dataclasses.replace(only, model_profile=model_profile),)
    )


def report(*detections: Detection) -> tuple[dict[str, Any], list[str]]:
    """The JSON report's part on the checkpoint, and the lines after the run."""
    made = planned(*detections)
    check = made.checkpoints[0].checks[0]
    verdict = Verdict(outcome="pass", statement="c")
    ending = Ending(
        partial=False, problems=(), exit_status=0, started=datetime.now(UTC), duration_s=1.0
    )
    decided = check_result(f"x::{check.test_name('bert')}", check, verdict)
    whole = collected(made, {decided.test_name: decided}, ending)
    lines = [line.text for line in terminal.lines_of(whole)]
    return as_json(whole)["checkpoints"][0], lines


def test_the_block_shows_who_found_what() -> None:
    _, lines = report(found("busters", 7, 300), found("massive", 7, by_chance=None))
    start = next(n for n, line in enumerate(lines) if line.startswith("rules agree on"))
    assert lines[start : start + 6] == [
        "rules agree on  busters  massive",
        "dimension 7     x        x",
        "dimension 300   x        .",
        "dimensions      2        1",
        "by chance       1e-09    -",
        "What is ablated are the dimensions of busters, the rule named first.",
    ]


def test_one_rule_has_no_block() -> None:
    checkpoint, lines = report(found("busters", 7))
    assert not any("agree" in line for line in lines)
    assert [rule["rule"] for rule in checkpoint["rules"]] == ["busters"]


def test_a_rule_without_chance_says_so() -> None:
    _, lines = report(found("massive", 7, by_chance=None))
    assert "outlier dimensions, massive: in some way (by chance: not defined)" in lines
    assert "  dimension 7 in 2 of 2 layers (0-1): |value| up to inf" in lines


def test_the_json_holds_every_rule_and_their_agreement() -> None:
    checkpoint, _ = report(found("busters", 3, 7), found("massive", 7, 9, by_chance=None))
    assert checkpoint["rule"] == "busters: in some way"
    assert [outlier["dim"] for outlier in checkpoint["outliers"]] == [3, 7]
    first, second = checkpoint["rules"]
    assert (first["rule"], first["description"]) == ("busters", "busters: in some way")
    assert (second["dims"], second["expected_by_chance"]) == ([7, 9], None)
    assert second["details"] == {"kurt": ["inf"]}
    assert second["outliers"][0]["statistics"] == {"|value|": [-3.0, "inf"]}
    assert checkpoint["agreement"] == [
        {"dim": 7, "rules": ["busters", "massive"]},
        {"dim": 3, "rules": ["busters"]},
        {"dim": 9, "rules": ["massive"]},
    ]


def test_many_dimensions_of_all_rules_fit() -> None:
    detections = [found(name, *range(4000, 4040 + n)) for n, name in enumerate(RULES)]
    checkpoint, lines = report(*detections)
    shown = [line for line in lines if line.startswith("dimension 4")]
    assert len(shown) == words.DIMENSIONS
    assert f"and {46 - words.DIMENSIONS} more dimensions, all in the JSON report" in lines
    assert f"  and {40 - words.DIMENSIONS} more" in lines
    assert len(checkpoint["outliers"]) == 40
    before = header.header(planned(*detections))
    assert max(map(len, [*lines, *before])) <= 100
    assert any("and 24 more" in line for line in before)


def test_the_plan_carries_all_rules() -> None:
    made = planned(found("busters", 3), found("massive", 9, by_chance=None))
    again = RunPlan.from_json(made.to_json())
    assert [d.dims for d in again.checkpoints[0].model_profile.detections] == [(3,), (9,)]


def test_rules_are_named_on_the_command_line(stubs: Stubs, tmp_path: Path) -> None:
    run = run_suite(
        tmp_path,
        *stubs.options,
        *(f"--robustness-rule={name}" for name in ("busters", "llm-int8", "variance")),
        "-k",
        "present",
    )
    (checkpoint,) = run.facts["checkpoints"]
    names = [rule["rule"] for rule in checkpoint["rules"]]
    assert names == ["busters", "llm-int8", "variance"]
    assert checkpoint["rules"][1]["dims"] == [DIM]
    run.result.stdout.fnmatch_lines(
        [
            f"{LABEL}: *",
            "  busters: scale and bias beyond 3 std in at least 1 of 2 layers: 7",
            "  llm-int8: some |value| of at least 6 in at least 1 of 2 layers, *",
            "  variance: *",
            "rules agree on  busters  llm-int8  variance",
            "dimension 7     x        x         .",
        ]
    )


def test_a_rule_that_cannot_say_anything_ends_the_run_in_one_sentence(
    stubs: Stubs, tmp_path: Path
) -> None:
    options = [f"--robustness-rule={name}" for name in ("busters", "super-weight")]
    run = run_suite(tmp_path, *stubs.options, *options)
    assert "rule super-weight looks for single weights" in error_sentence(run.result)
