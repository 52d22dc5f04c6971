"""Every command and snippet of the README, executed; every figure of its reference compared."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from robustness.policy import PolicyFile
from robustness.report.terminal import COLUMNS
from tests.checkpoint_folders import hub_cache, tiny_model
from tests.gguf_files import TOKENS, write_llama_gguf
from tests.planted import save_planted
from tests.task_stubs import classified, save_classifier

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(README) if kind == language]


def _commands() -> list[str]:
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines if line]


OUR_COMMANDS = [command for command in _commands() if command.startswith("robustness ")]
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
    (place / "text.txt").write_text(text.read_text())
    (snippet,) = _blocks("python")
    (place / "test_release.py").write_text(snippet)
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
        if "--robustness-save-baseline=" in command or "--robustness-shard=" in command:
            result = _run(shlex.split(command), workplace)
            assert result.returncode == 0, result.stdout + result.stderr


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
        assert "outliers are present" in result.stdout
        assert re.search(r"weights are finite .* (pass|fail)", result.stdout)


@pytest.mark.parametrize("command", OUR_COMMANDS)
@pytest.mark.usefixtures("reports")
def test_the_console_program_runs(command: str, workplace: Path) -> None:
    result = _run(shlex.split(command), workplace)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "another-one" in result.stdout


def test_the_example_tests_pass(workplace: Path) -> None:
    (snippet,) = _blocks("python")
    command = "pytest test_release.py --model=my-checkpoint --robustness-corpus=text.txt -rA"
    result = _run(shlex.split(command), workplace)
    assert result.returncode == 0, result.stdout + result.stderr
    names = re.findall(r"^def (test_\w+)", snippet, re.MULTILINE)
    assert len(names) >= 3
    for name in names:
        assert re.search(rf"PASSED .*{name}\[my-checkpoint\]", result.stdout)


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
