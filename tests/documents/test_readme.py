"""Every command and snippet of the README, executed; every figure of its reference compared."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from robustness.cli.app import app
from robustness.policy.policy import PolicyFile
from robustness.report.cells import COLUMNS
from tests.support.checkpoints.checkpoint_folders import hub_cache, tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.planted import planted_model, save_planted
from tests.support.checkpoints.trainings import trainer_of
from tests.support.records.task_stubs import classified, save_classifier

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(README) if kind == language]


def _commands() -> list[str]:
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines if line]


def _snippet(containing: str) -> str:
    """The only piece of Python with these words in it."""
    (snippet,) = (block for block in _blocks("python") if containing in block)
    return snippet


FLEET_COMMANDS = [command for command in _commands() if command.startswith("robustness fleet ")]
OUR_COMMANDS = [
    command
    for command in _commands()
    if command.startswith("robustness ") and command not in FLEET_COMMANDS
]
PYTEST_COMMANDS = [command for command in _commands() if command.startswith("pytest ")]


def test_there_is_something_to_test() -> None:
    assert len(PYTEST_COMMANDS) >= 8
    assert all(kind in ("console", "python", "toml", "text") for kind, _ in FENCE.findall(README))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what the README speaks of exists."""
    root = tmp_path_factory.mktemp("readme")
    folder, text = save_planted(root)
    place = root / "place"
    place.mkdir()
    for name in ("my-checkpoint", "another-one"):
        shutil.copytree(folder, place / name)
    words = text.read_text().split()
    rows = [" ".join(words[n : n + 12]) for n in range(0, 1200, 12)]
    (place / "reactions.csv").write_text("\n".join(["rxn", *rows]) + "\n")
    for step in (1000, 2000):
        shutil.copytree(folder, place / "run" / f"checkpoint-{step}")
    (place / "MODEL_CARD.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (place / "text.txt").write_text(text.read_text())
    (place / "test_release.py").write_text(_snippet("def test_"))
    save_classifier(place / "my-classifier", num_labels=2)
    reviews = [f"{text}\t{label}" for text, label in classified(300)]
    (place / "reviews.tsv").write_text("\n".join(["sentence\tlabel", *reviews]) + "\n")
    package = place / "packages" / "my_models"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(folder, package / "checkpoint")
    llama = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), max_position_embeddings=128, hidden_size=32
    )
    write_llama_gguf(place / "model.gguf", llama)
    hub_cache(place / "hub", folder, "bert-base-uncased")
    return place


@pytest.fixture(scope="module")
def reports(workplace: Path) -> None:
    """The files that the console program is shown with, by the README's commands."""
    for command in PYTEST_COMMANDS:
        wanted = ("--robustness-save-baseline=", "--robustness-shard=", "--robustness-html=")
        if any(option in command for option in wanted):
            result = _run(shlex.split(command), workplace)
            assert result.returncode == 0, result.stdout + result.stderr
    for command in OUR_COMMANDS:
        if command.startswith("robustness merge "):
            assert _run(shlex.split(command), workplace).returncode == 0


def _run(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place / "packages"), str(ROOT)]),
        "HF_HUB_CACHE": str(place / "hub"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(place / "cache"),
        "COLUMNS": "120",
    }
    environment.pop("PYTEST_ADDOPTS", None)
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.parametrize("command", PYTEST_COMMANDS)
def test_the_commands_run(command: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    if "--robustness-baseline=" in command:
        request.getfixturevalue("reports")
    result = _run(shlex.split(command), workplace)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if "--collect-only" in command or "--robustness-plan" in command:
        assert "test_ablation_degrades[my-checkpoint-dim17]" in result.stdout
    else:
        compared = "--reference=" in command or "--robustness-baseline=" in command
        assert ("perplexity is kept" if compared else "outliers are present") in result.stdout
        assert re.search(r"weights are finite .* (pass|fail)", result.stdout)


@pytest.mark.parametrize("command", OUR_COMMANDS)
@pytest.mark.usefixtures("reports")
def test_the_console_program_runs(command: str, workplace: Path) -> None:
    result = _run(shlex.split(command), workplace)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search("another-one|my-checkpoint|checkpoint-2000|wrote report.html", result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", FLEET_COMMANDS)
def test_the_fleet_runs(command: str, workplace: Path) -> None:
    """On a Ray of its own, for want of a cluster."""
    pytest.importorskip("ray")
    assert "--address=auto" in command
    result = _run(shlex.split(command.replace("--address=auto", "--address=local")), workplace)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "another-one" in result.stdout
    assert (workplace / "vetting.json").exists()


def test_the_fleet_has_the_options_that_are_spoken_of() -> None:
    arguments = ["fleet", "--help"]
    known = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments).stdout
    section = README.partition("## Several machines")[2].partition("\n## ")[0]
    section = section.partition("[Ray]")[2]
    spoken = set(re.findall(r"--(?!robustness)[a-z-]+", section))
    assert {"--address", "--gpus-per-task", "--retries", "--store"} <= spoken
    assert [option for option in spoken if f"{option} " not in known] == []


def test_the_picture_is_there_and_can_be_made_anew() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/\S+\.png)\)", README)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / picture).stat().st_size < 300_000
    assert "tox -e screenshot" in README
    tox = (ROOT / "tox.ini").read_text()
    assert f"python docs/screenshot.py {{env_tmp_dir}}{{/}}report.html {picture}" in tox


def test_the_example_tests_pass(workplace: Path) -> None:
    snippet = _snippet("def test_")
    command = "pytest test_release.py --model=my-checkpoint --robustness-corpus=text.txt -rA"
    result = _run(shlex.split(command), workplace)
    assert result.returncode == 0, result.stdout + result.stderr
    names = re.findall(r"^def (test_\w+)", snippet, re.MULTILINE)
    assert len(names) >= 3
    for name in names:
        assert re.search(rf"PASSED .*{name}\[my-checkpoint\]", result.stdout)


def test_the_training_is_watched(tmp_path: Path) -> None:
    model = planted_model()
    trainer = trainer_of(model, tmp_path)
    names: dict[str, Any] = {
        "model": model,
        "arguments": trainer.args,
        "texts": trainer.train_dataset,
    }
    exec(_snippet("OutlierCallback"), names)
    logged = {name for entry in names["trainer"].state.log_history for name in entry}
    text = README[README.index("## While training") :]
    shown = set(re.findall(r"`(outliers/\w+(?:/\w+)?)`", text))
    assert len(shown) == 3
    assert shown <= logged


def test_the_policy_reference_is_complete_and_shows_the_defaults() -> None:
    (block,) = _blocks("toml")
    defaults = PolicyFile().model_dump(exclude_none=True)
    assert defaults.pop("checkpoints") == {}
    assert tomllib.loads(block) == defaults


def test_the_commands_for_developers_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    tox = (ROOT / "tox.ini").read_text()
    for command in ("pip install tox && tox -e demo", "pip install tox && tox"):
        assert command in _commands()
    assert "[testenv:demo]" in tox
    assert "tox -e demo" in ci
    assert re.search(r"^\s*\S*tox$", ci, re.MULTILINE)


def test_the_excerpt_has_the_columns_of_the_table() -> None:
    excerpt = _blocks("text")[0]
    header = next(line for line in excerpt.splitlines() if line.startswith("check "))
    assert tuple(header.split()) == COLUMNS
    assert max(map(len, excerpt.splitlines())) <= 100


def test_the_excerpt_can_be_made_anew() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from excerpt import excerpt, replaced
    finally:
        sys.path.remove(str(ROOT / "docs"))
    (table,) = re.findall(r"<!-- demo output -->\n```text\n(.*?)\n```", README, re.DOTALL)
    end = "======================== 8 passed in 183.70s (0:03:03) ========================="
    assert excerpt(f"collected 8 items\n\n{table}\n{end}\n") == table
    assert replaced(README, table) == README
    assert "\nanother\n" in replaced(README, "another")
    with pytest.raises(SystemExit, match="0 times"):
        replaced("no mark", table)
    with pytest.raises(SystemExit, match="no table"):
        excerpt("1 failed")
