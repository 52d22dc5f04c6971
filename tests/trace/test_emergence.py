"""When outlier dimensions emerged in a run."""

import json
import os
import re
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.errors import CheckpointError
from robustness.trace.run_order import in_order, step_of
from tests.outliers.test_scanning import bert
from tests.support.checkpoints.checkpoint_folders import hub_cache

COURSE = {90: None, 100: 5, 200: 7, 1000: 5, 2000: 5}
"""Which dimension stands out after how many steps."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    for step, dim in COURSE.items():
        bert(step, dim).save_pretrained(root / f"checkpoint-{step}")
    for file in root.rglob("*"):
        os.utime(file, (1e9, 1e9))
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--store={tmp_path_factory.mktemp('store')}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["trace", *arguments])


def test_a_dimension_emerges_where_it_stays(folder: Path, store: str) -> None:
    result = run(str(folder), store, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert [one["step"] for one in facts["steps"]] == sorted(COURSE)
    assert [one["dims"] for one in facts["steps"]] == [[], [5], [7], [5], [5]]
    first, second = facts["dimensions"]
    assert (first["dim"], first["emerged"]) == (5, "checkpoint-1000")
    assert first["flagged"] == [False, True, False, True, True]
    assert (second["dim"], second["emerged"]) == (7, None)
    assert all(abs(z) > 7 for z in (first["z_scale"][1], first["z_bias"][1], second["z_scale"][2]))
    assert all(abs(z) < 5 for z in (first["z_scale"][0], first["z_bias"][2]))


def test_the_order_is_that_of_the_steps_however_they_are_named(folder: Path, store: str) -> None:
    whole = run(str(folder), store).stdout
    pattern = run(f"{folder}/checkpoint-*", store).stdout
    named = run(*(str(folder / f"checkpoint-{step}") for step in reversed(COURSE)), store).stdout
    assert whole == pattern == named
    lines = whole.splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = [line for line in lines if line.split()[:2] == ["5", "1000"]]
    assert row.split()[2] == "scale"
    assert any(line.split()[:2] == ["7", "(gone)"] for line in lines)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("runs/checkpoint-9000", 9000),
        ("runs/checkpoint-9000/", 9000),
        ("google/multiberts-seed_0-step_20k@step_20k", 20_000),
        ("bert-2@step1M", 1_000_000),
        ("EleutherAI/pythia-70m@step512", 512),
        ("runs-17/final", None),
        ("org/model@3f2a9c1", None),
        ("org/model@1000000", 1_000_000),
    ],
)
def test_the_step_is_the_last_number_of_the_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_without_steps_the_order_is_the_users() -> None:
    assert in_order(["b/final", "a/first-1"]) == [("b/final", None), ("a/first-1", 1)]
    with pytest.raises(CheckpointError, match="after step 1"):
        in_order(["a/x-1", "b/x-1"])


def test_other_folders_beside_the_checkpoints_do_not_disturb_their_order(tmp_path: Path) -> None:
    for name in ("checkpoint-90", "checkpoint-1000", "checkpoint-best", "runs", "tmp-checkpoint-7"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").touch()
    assert [step for _, step in in_order([str(tmp_path)])] == [90, 1000]
    matched = [Path(name).name for name, _ in in_order([f"{tmp_path}/checkpoint-*[0-9t]"])]
    assert matched == ["checkpoint-5", "checkpoint-90", "checkpoint-1000", "checkpoint-best"]


def test_a_single_checkpoint_is_a_short_run(folder: Path, store: str) -> None:
    result = run(str(folder / "checkpoint-100"), store)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 checkpoint, checkpoint-100: ")
    assert re.search(r"^ +5 +at the first +scale ", result.stdout, re.MULTILINE)


def test_encoders_without_a_head_are_traced(tmp_path: Path) -> None:
    for step, dim in ((100, None), (200, 5)):
        bert(step, dim).bert.save_pretrained(tmp_path / f"checkpoint-{step}")
    result = run(str(tmp_path), f"--store={tmp_path / 'store'}", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert [one["dims"] for one in facts["steps"]] == [[], [5]]


def test_what_stands_out_at_the_first_checkpoint_did_not_emerge_there(
    folder: Path, store: str
) -> None:
    later = [str(folder / f"checkpoint-{step}") for step in (1000, 2000)]
    result = run(*later, store)
    assert re.search(r"^ +5 +at the first +scale ", result.stdout, re.MULTILINE)
    (found,) = json.loads(run(*later, store, "--json").stdout)["dimensions"]
    assert found["emerged"] == "checkpoint-1000"


def test_revisions_on_the_hub_are_taken_in_the_order_of_their_steps(
    folder: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Hub client has them once they have been fetched."""
    cache = tmp_path / "hub"
    names = {"step_90": 90, "step_1k": 1000, "step_2k": 2000}
    for number, (revision, step) in enumerate(names.items()):
        source = folder / f"checkpoint-{step}"
        hub_cache(cache, source, "org/tiny", commit=str(number) * 40, revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run(*(f"org/tiny@{name}" for name in reversed(names)), store, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert [one["step"] for one in facts["steps"]] == [90, 1000, 2000]
    assert [one["revision"] for one in facts["steps"]] == [str(n) * 40 for n in range(3)]
    assert [one["label"] for one in facts["steps"]] == [f"tiny-{name}" for name in names]
    assert facts["dimensions"][0]["emerged"] == "tiny-step_1k"
    refused = run("org/tiny@step_90", "org/tiny@step_3k", store)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert "step_3k" in line
    assert "HF_HUB_OFFLINE is set" in line


def test_what_is_not_one_run_is_refused_by_name(folder: Path, store: str, tmp_path: Path) -> None:
    bert(0, None, vocab_size=64).save_pretrained(tmp_path / "checkpoint-1")
    wider = bert(0, None).config
    wider.num_hidden_layers = 3
    type(bert())(wider).save_pretrained(tmp_path / "checkpoint-2")
    result = run(str(folder / "checkpoint-90"), str(tmp_path / "checkpoint-2"), store)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "checkpoint-2 and checkpoint-90 are not of one run: their number of layers" in line
    for arguments in (["missing-*"], [str(folder), "--rule=x"]):
        refused = run(*arguments, store)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1
