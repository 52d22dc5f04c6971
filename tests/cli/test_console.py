"""The console program: profiles compared offline, with exit codes for machines."""

import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from robustness import __version__
from robustness.cli.app import app
from robustness.reference.baseline import Baseline, write_baseline
from robustness.report.json_document import read_report, render, sealed
from robustness.report.reporters import REPORTERS
from tests.support.records import full_reports
from tests.support.records.profiles import CONDITIONS, entry, profile
from tests.support.records.run_reports import shard_report


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def compared(then: Baseline, now: Baseline, *options: str) -> Result:
    write_baseline(then, Path("a.json"))
    write_baseline(now, Path("b.json"))
    return run("diff", "a.json", "b.json", *options)


def facts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_same_profile_is_the_same() -> None:
    result = compared(profile(), profile())
    assert result.exit_code == 0
    assert "bert: organisation/bert at 0123456789abcdef" in result.stdout
    for row in ("outliers", "perplexity", "dim7"):
        assert any(row in line and "pass" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"perplexity_times": 1.2}, ["perplexity"]),
        ({"degradation": 27.0}, ["dim7"]),
        ({"degradation": 1.0}, ["dim7"]),
        ({"dims": (7, 9)}, ["outliers"]),
        ({"dims": ()}, ["outliers"]),
        ({"perplexity_times": 0.5}, []),
    ],
    ids=["perplexity", "more harm", "less harm", "new", "gone", "better"],
)
def test_what_lies_outside_its_tolerance_is_a_regression(
    changes: dict[str, Any], failing: list[str]
) -> None:
    result = compared(profile(), profile(entry(**changes)), "--json")
    assert result.exit_code == int(bool(failing))
    found = facts(result)
    assert found["schema"] == 1
    assert found["outcome"] == ("regressed" if failing else "same")
    (checkpoint,) = found["checkpoints"]
    verdicts = {name: v["outcome"] for name, v in checkpoint["verdicts"].items()}
    assert [name for name, outcome in verdicts.items() if outcome == "fail"] == failing
    assert checkpoint["not_compared"] == (["dim7"] if changes.get("dims") == () else [])


def test_what_only_one_of_them_was_ablated_of_is_told_with_its_harm() -> None:
    result = compared(profile(), profile(entry(dims=(), perplexity_times=1.01)), "--dims=any")
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if "dim7" in line]
    assert "not compared" in row
    then = profile().checkpoints[0]
    delta = sum(then.ablations[0].nll_nats) - sum(then.nll_nats)
    harm = math.exp(delta / sum(then.tokens))
    assert f"x{harm:.4g} then; not ablated now" in row
    found = facts(compared(profile(entry(dims=())), profile(), "--dims=any", "--json"))
    (checkpoint,) = found["checkpoints"]
    assert checkpoint["not_compared"] == []
    assert checkpoint["degradations"] == {
        "then_only": {},
        "now_only": {"dim7": pytest.approx(harm)},
    }


def test_tolerances_can_be_given() -> None:
    worse = profile(entry(perplexity_times=1.2, dims=(7, 9), degradation=9.0))
    lax = ("--max-ratio=1.3", "--max-effect=4", "--dims=superset")
    assert compared(profile(), worse, *lax).exit_code == 0
    for option in lax:
        kept = [other for other in lax if other != option]
        assert compared(profile(), worse, *kept).exit_code == 1


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (entry(conditions={**CONDITIONS, "corpus": "f00"}, corpus="glue"), "another corpus"),
        (entry(conditions={**CONDITIONS, "dtype": "bfloat16"}), "another dtype"),
        (entry(tokens=(20,) * 64), "other numbers of scored tokens"),
    ],
    ids=["corpus", "dtype", "tokens"],
)
def test_what_cannot_be_compared_is_neither_same_nor_regressed(now: Any, named: str) -> None:
    result = compared(profile(), profile(now))
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    found = compared(profile(), profile(now), "--json")
    assert (found.exit_code, facts(found)["outcome"]) == (2, "not comparable")


def test_checkpoints_of_one_file_only_cannot_be_compared() -> None:
    both = profile(entry("a"), entry("b"))
    for then, now in ((both, profile(entry("a"))), (profile(entry("a")), both)):
        result = compared(then, now)
        assert result.exit_code == 2
        assert "holds no checkpoint 'b', but a" in result.stderr


@pytest.mark.parametrize("option", ["--dims=none", "--max-ratio=1", "--nonsense"])
def test_wrong_options_are_refused(option: str) -> None:
    result = compared(profile(), profile(), option)
    assert result.exit_code == 2
    assert option.partition("=")[0].removeprefix("--").replace("-", "_") in (
        result.stderr.replace("-", "_")
    )


def test_an_unreadable_file_is_not_comparable() -> None:
    Path("a.json").write_text("{")
    result = run("diff", "a.json", "a.json")
    assert result.exit_code == 2
    assert "a.json is not a profile" in result.stderr


def test_names_are_shown_as_they_are() -> None:
    name = "[red]x[/red] [link=http://x]y[/link]"
    result = compared(profile(entry(name)), profile(entry(name)))
    assert result.exit_code == 0
    assert name in result.stdout


def test_it_imports_nothing_heavy_and_is_installed() -> None:
    code = "import sys, robustness.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "datasets", "pytest"}.isdisjoint(done.stdout.split())
    assert run("--version").stdout.strip() == __version__
    assert version("typer")


def test_a_merge_writes_the_whole_run_in_every_format(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    shard = tmp_path / "shard.json"
    shard.write_text(render(sealed(shard_report())))
    offered = [name for name, reporter in REPORTERS.items() if reporter.writes]
    assert {"html", "json", "junit", "markdown"} <= set(offered)
    options = [f"--{name}={tmp_path / name}" for name in offered]
    result = run("merge", str(shard), *options)
    assert result.exit_code == 0, result.output
    assert "the run of 1 shards passed" in result.output
    whole = read_report(tmp_path / "json")
    assert (whole.merged, whole.shard, whole.sha256) == (1, None, None)
    for name in offered:
        assert (tmp_path / name).read_text() == REPORTERS[name].render(whole)
    again = run("report", str(tmp_path / "json"), f"--markdown={tmp_path / 'again.md'}")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.md").read_text() == (tmp_path / "markdown").read_text()


def test_a_result_that_no_run_has_written_ends_in_a_page_or_a_sentence() -> None:
    pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")
    whole = json.loads(render(full_reports.run(full_reports.checkpoint())))
    vetted = whole["checkpoints"][0]
    vetted["outliers"][0] |= {"layers": [], "z_scale": []}
    vetted["checks"][0]["measured"] = "nan"
    Path("odd.json").write_text(json.dumps(whole))
    shown = run("report", "odd.json", "--html=new/a.html", "--markdown=new/b.md")
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(f"made the folder {Path.cwd() / 'new'}") == 1
    vetted["hidden_size"] = 10**30
    Path("odd.json").write_text(json.dumps(whole))
    refused = run("report", "odd.json", "--html=c.html")
    assert refused.exit_code == 2
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith("robustness: the html report cannot be made of this result")
    assert not Path("c.html").exists()
