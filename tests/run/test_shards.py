"""A run in parts on machines that share nothing, and the one verdict made of their reports."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.errors import PolicyError, ShardError
from robustness.report.merge import parse_shard, read_shard
from robustness.run.plan import RunPlan
from robustness.run.shards import Part, take
from robustness.store.store import digest
from tests.support.plugin.github_runner import obeyed
from tests.support.plugin.plugin_support import (
    Stubs,
    error_sentence,
    read_json,
    run_pytest,
    run_suite,
    verdicts,
)
from tests.support.records.plans import plan

Edit = Callable[[dict[str, Any]], None]


# --- parts of a plan -----------------------------------------------------------------------------


def names(run: RunPlan) -> list[str]:
    return [check.test_name(p.label) for p in run.checkpoints for check in p.checks]


@given(checkpoints=st.integers(1, 6), count=st.integers(1, 6))
def test_every_check_is_in_exactly_one_shard(checkpoints: int, count: int) -> None:
    whole = plan(*"abcdef"[:checkpoints])
    parts = [take(whole, Part(index=n, count=count)) for n in range(1, count + 1)]
    assert sorted(name for part in parts for name in names(part)) == sorted(names(whole))
    assert {part.comparisons for part in parts} == {whole.comparisons}
    assert {part.alpha for part in parts} == {whole.alpha}
    sizes = [len(names(part)) for part in parts]
    if checkpoints >= count:  # whole checkpoints
        labels = [planned.label for part in parts for planned in part.checkpoints]
        assert len(labels) == len(set(labels)) == checkpoints
    else:
        assert max(sizes) - min(sizes) <= 1
    for part in parts:
        assert part.shard is not None
        assert part.shard["expected"] == names(part)
        assert part.shard["plan"] == parts[0].shard["plan"]  # type: ignore[index]
        assert RunPlan.from_json(part.to_json()) == part


def test_a_shard_knows_the_plan_it_is_of() -> None:
    one, other = (take(plan(*labels), Part(index=1, count=2)).shard for labels in ("ab", "ac"))
    assert one is not None
    assert other is not None
    assert one["plan"] != other["plan"]


def test_a_shard_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(PolicyError, match="use at most 6 shards"):
        take(plan("a"), Part(index=1, count=7))


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/99999"])
def test_a_part_is_one_of_so_many(text: str) -> None:
    with pytest.raises(PolicyError, match="must be i/n"):
        Part.parse(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--robustness-shard=1/2",), "needs --robustness-json=FILE"),
        (
            ("--robustness-shard=1/2", "--robustness-json=a", "--robustness-save-baseline=b"),
            "saves no baseline",
        ),
    ],
)
def test_a_shard_needs_a_report_and_saves_no_baseline(
    options: tuple[str, ...], named: str, stubs: Stubs, tmp_path: Path
) -> None:
    assert named in error_sentence(run_pytest(tmp_path, *stubs.options, *options))


def test_an_empty_checksum_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the report is nested so deep that nothing can be said of it."""

    def bottomless(_: Any) -> str:
        raise RecursionError

    monkeypatch.setattr("robustness.report.merge.digest", bottomless)
    with pytest.raises(ShardError, match="its checksum does not match"):
        parse_shard(b'{"shard": {}, "sha256": ""}', "a.json")


# --- three machines ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints vetted by three machines, each with a folder and a store of its own."""
    root = tmp_path_factory.mktemp("machines")
    found = []
    for index in (1, 2, 3):
        folder = root / str(index)
        folder.mkdir()
        if stubs.store.is_dir():  # what other tests have measured already
            shutil.copytree(stubs.store, folder / "store")
        run = run_suite(
            folder,
            f"--model={stubs.model}",
            f"--model={stubs.other}",
            f"--robustness-corpus={stubs.corpus}",
            "--robustness-store=store",
            f"--robustness-shard={index}/3",
        )
        assert run.result.ret == 0
        run.result.assert_outcomes(passed=4)
        run.result.stdout.fnmatch_lines([f"robustness: shard {index}/3 with 4 of 12 checks;*"])
        assert run.facts["comparisons"] == 10
        assert not run.facts["passed"]  # only the whole can be
        found.append(folder / "report.json")
    return found


def merged(*files: Path, folder: Path) -> Result:
    outputs = (f"--json={folder / 'all.json'}", f"--junit={folder / 'all.xml'}")
    return CliRunner().invoke(app, ["merge", *map(str, files), *outputs])


def edited(file: Path, folder: Path, edit: Edit) -> Path:
    """Another report, with a checksum of its own."""
    facts = read_json(file)
    facts.pop("sha256")
    edit(facts)
    target = folder / f"edited-{file.parent.name}.json"
    target.write_text(json.dumps({**facts, "sha256": digest(facts)}))
    return target


def test_three_shards_give_one_verdict(reports: list[Path], tmp_path: Path) -> None:
    result = merged(*reversed(reports), folder=tmp_path)
    assert result.exit_code == 0, result.output
    facts = read_json(tmp_path / "all.json")
    assert facts["passed"]
    assert facts["problems"] == []
    assert facts["merged"] == 3
    assert len(verdicts(facts)) == 12
    assert set(verdicts(facts).values()) == {"pass"}
    assert [len(checkpoint["checks"]) for checkpoint in facts["checkpoints"]] == [6, 6]
    suite = ET.parse(tmp_path / "all.xml").getroot()[0]
    assert {suite.get(n) for n in ("failures", "errors", "skipped")} == {"0"}
    assert len(suite.findall("testcase")) == int(suite.get("tests", "0")) == 12
    assert "the run of 3 shards passed" in result.stdout
    assert result.stdout.count("weights are finite") == 2


def test_what_pictures_need_survives_the_merge(reports: list[Path], tmp_path: Path) -> None:
    assert merged(*reports, folder=tmp_path).exit_code == 0
    facts, parts = read_json(tmp_path / "all.json"), list(map(read_json, reports))
    assert facts["command"].splitlines() == [part["command"] for part in parts]
    for checkpoint in facts["checkpoints"]:
        same = [
            p for part in parts for p in part["checkpoints"] if p["label"] == checkpoint["label"]
        ]
        assert checkpoint["sites"]["scale"] == same[0]["sites"]["scale"]
        # Only the shard with the joint ablation has measured them.
        shown = [check["examples"] for check in checkpoint["checks"] if check["examples"]]
        assert list(map(len, shown)) == [3]
        measuring = [p for p in same if any(check["examples"] for check in p["checks"])]
        assert len(measuring) == 1


def test_what_is_missing_is_named(reports: list[Path], tmp_path: Path) -> None:
    result = merged(reports[0], reports[2], folder=tmp_path)
    assert result.exit_code == 1
    assert "shard 2/3 is missing" in result.stdout
    gone = read_json(reports[1])["shard"]["expected"]
    for name in gone:
        assert f"{name} has no verdict" in result.stdout
    suite = ET.parse(tmp_path / "all.xml").getroot()[0]
    assert suite.get("errors") == str(1 + len(gone))
    assert not read_json(tmp_path / "all.json")["passed"]


def test_within_a_github_job_the_merge_reports_for_the_whole(
    reports: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = merged(*reports[:2], folder=tmp_path)
    assert result.exit_code == 1
    told = [(each.name, each.properties["title"]) for each in obeyed(result.stdout)]
    assert told[0] == ("error", "robustness: did not pass")
    assert len(told) == 3  # and one per checkpoint
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("## Checkpoint vetting: did not pass\n")
    assert "shard 3/3 is missing" in text


def drop_a_check(facts: dict[str, Any]) -> None:
    facts["checkpoints"][0]["checks"].pop()


def fail_a_check(facts: dict[str, Any]) -> None:
    facts["checkpoints"][0]["checks"][0]["outcome"] = "fail"


def tell_a_problem(facts: dict[str, Any]) -> None:
    facts["problems"].append("a worker crashed")


def end_badly(facts: dict[str, Any]) -> None:
    facts["exit_status"] = 2


def expect_a_failure(facts: dict[str, Any]) -> None:
    mark = {"reason": "x", "expires": "2999-01-01", "expired": False}
    facts["checkpoints"][0]["checks"][0]["expected_failure"] = mark


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (drop_a_check, "has no verdict"),
        (fail_a_check, "did not pass"),
        (tell_a_problem, "shard 1/3: a worker crashed"),
        (end_badly, "shard 1/3 ended with exit status 2"),
        (expect_a_failure, "take the mark out of the policy"),
    ],
)
def test_whatever_is_wrong_in_one_shard_fails_the_whole(
    edit: Edit, named: str, reports: list[Path], tmp_path: Path
) -> None:
    result = merged(edited(reports[0], tmp_path, edit), *reports[1:], folder=tmp_path)
    assert result.exit_code == 1
    assert named in " ".join(result.stdout.split())
    assert not read_json(tmp_path / "all.json")["passed"]


def test_an_expected_failure_passes(reports: list[Path], tmp_path: Path) -> None:
    def edit(facts: dict[str, Any]) -> None:
        expect_a_failure(facts)
        fail_a_check(facts)

    result = merged(edited(reports[0], tmp_path, edit), *reports[1:], folder=tmp_path)
    assert result.exit_code == 0
    suite = ET.parse(tmp_path / "all.xml").getroot()[0]
    assert suite.get("skipped") == "1"


def another_plan(facts: dict[str, Any]) -> None:
    facts["shard"]["plan"] = "0" * 64


def another_count(facts: dict[str, Any]) -> None:
    facts["shard"]["count"] = 4


def a_foreign_check(facts: dict[str, Any]) -> None:
    facts["shard"]["expected"] = []


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (another_plan, "another plan"),
        (another_count, "another number of shards"),
        (a_foreign_check, "decided by a shard that it is not of"),
    ],
)
def test_mixed_reports_are_refused(
    edit: Edit, named: str, reports: list[Path], tmp_path: Path
) -> None:
    result = merged(*reports[:2], edited(reports[2], tmp_path, edit), folder=tmp_path)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not (tmp_path / "all.json").exists()


def test_a_report_that_is_there_twice_is_refused(reports: list[Path], tmp_path: Path) -> None:
    result = merged(*reports, reports[1], folder=tmp_path)
    assert result.exit_code == 2
    assert "shard 2/3 is there twice" in result.stderr


@pytest.mark.parametrize(
    "text",
    [b"", b"[" * 100_000, b"{}", b"[]", b'{"schema": 2}', b"\xff\x00"],
    ids=["empty", "deep", "object", "list", "head only", "binary"],
)
def test_what_is_no_report_is_refused_in_one_sentence(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(text)
    with pytest.raises(ShardError) as caught:
        read_shard(file)
    assert str(caught.value).isprintable()


def test_a_report_changed_after_the_run_is_refused(reports: list[Path], tmp_path: Path) -> None:
    changed = tmp_path / "report.json"
    changed.write_text(reports[0].read_text().replace('"outcome": "pass"', '"outcome": "fail"', 1))
    with pytest.raises(ShardError, match="checksum does not match"):
        read_shard(changed)
    whole = tmp_path / "whole.json"
    facts = {**read_json(reports[0]), "shard": None}
    whole.write_text(json.dumps(facts))
    with pytest.raises(ShardError, match="not the report of a shard: shard"):
        read_shard(whole)


def test_what_a_terminal_would_obey_is_taken_out(reports: list[Path], tmp_path: Path) -> None:
    def edit(facts: dict[str, Any]) -> None:
        facts["problems"].append("\x1b[2Jgone")

    found = read_shard(edited(reports[0], tmp_path, edit))
    assert found.problems == ("\N{REPLACEMENT CHARACTER}[2Jgone",)
