"""The composite action: its form, and its scripts run with whatever its inputs may hold."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from robustness.plugin import pytest_addoption
from tests.support.plugin.plugin_support import Stubs, read_json, verdicts
from tests.support.plugin.workflows import EXPRESSION, ROOT, action, environment, run_script

ACTION = action()
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
DEFAULTS: dict[str, str] = {
    name: each.get("default", "") for name, each in ACTION["inputs"].items()
}
NASTY = (
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "' && touch pwned '",
    '" && touch pwned "',
    "| touch pwned",
    "> pwned",
    "*",
    "~",
    "$HOME",
    "\\",
    "%s%n",
    "-x",
    "--collect-only",
    "::error::forged",
)


# --- its form ------------------------------------------------------------------------------------


def test_it_is_a_composite_action_of_known_keys() -> None:
    assert set(ACTION) == {"name", "description", "branding", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    assert len(ACTION["description"]) <= 125  # GitHub's Marketplace takes no longer one
    for each in ACTION["inputs"].values():
        assert set(each) <= {"description", "required", "default"}
        assert each["description"]
        assert ("default" in each) != each.get("required", False)
        assert isinstance(each.get("default", ""), str)
    for name, step in STEPS.items():
        assert set(step) <= {"name", "id", "if", "uses", "with", "shell", "env", "run"}, name
        assert ("uses" in step) != ("run" in step)
        assert ("shell" in step) == ("run" in step)  # a composite action's step must name it


def test_what_others_have_written_is_pinned_to_a_commit() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.search(r"^\s*(- )?uses:", line)]
    assert len(lines) == sum("uses" in step for step in STEPS.values())
    for line in lines:
        assert re.search(r"uses: actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_every_input_is_used_and_every_one_used_is_there() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    expressions = " ".join(EXPRESSION.findall(text) + [s.get("if", "") for s in STEPS.values()])
    assert set(re.findall(r"inputs\.([\w-]+)", expressions)) == set(ACTION["inputs"])
    ids = {step["id"] for step in STEPS.values() if "id" in step}
    assert set(re.findall(r"steps\.([\w-]+)\.", expressions)) <= ids


def test_no_value_is_pasted_into_a_script() -> None:
    for name, step in STEPS.items():
        assert not EXPRESSION.search(step.get("run", "")), name
        assert re.search(r"\beval\b|\bsource\b|bash -c", step.get("run", "")) is None


def test_reports_and_measurements_are_kept_whatever_came_of_the_run() -> None:
    for name in ("Upload the reports", "Keep what was downloaded and measured"):
        assert STEPS[name]["if"].startswith("always()")
    assert list(STEPS).index("Vet") < list(STEPS).index("Upload the reports")
    restored = STEPS["Restore what earlier runs have downloaded and measured"]["with"]
    kept = STEPS["Keep what was downloaded and measured"]["with"]
    assert kept == {name: restored[name] for name in ("path", "key")}
    assert restored["key"].startswith(restored["restore-keys"].strip())


# --- its scripts ---------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A folder with a ``python`` that only writes down its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "python"
    script.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" > "$RECORD"\n')
    script.chmod(0o755)
    return folder


def recorded(
    name: str, inputs: Mapping[str, str], recording: Path, *, exit_code: int = 0
) -> list[str]:
    """The arguments with which a step starts python."""
    folder = recording.parent
    values = {f"inputs.{key}": text for key, text in {**DEFAULTS, **inputs}.items()}
    values |= {f"steps.places.outputs.{key}": f"/{key}" for key in ("reports", "store", "hub")}
    step = STEPS[name]
    variables = {**environment(step, values), "RECORD": str(folder / "record")}
    result = run_script(step["run"], folder, variables, first_in_path=recording)
    assert result.returncode == exit_code, result.stderr
    assert not list(folder.rglob("pwned"))
    record = folder / "record"
    return record.read_text().split("\0")[:-1] if record.exists() else []


REPORTS = [
    "--robustness-json=/reports/vetting.json",
    "--junitxml=/reports/vetting.xml",
    "--robustness-html=/reports/vetting.html",
    "--robustness-store=/store",
]


def test_every_input_is_one_argument_whatever_it_holds(recording: Path) -> None:
    given = {
        "models": "\n".join(["", *NASTY, "  ", "last\r\n"]),
        "corpus": NASTY[1],
        "policy": NASTY[3],
        "reference": NASTY[5],
        "shard": "1/3",
        "workers": "2",
        "arguments": "-k\n" + "\n".join(NASTY),
    }
    assert recorded("Vet", given, recording) == [
        "-m",
        "pytest",
        *(f"--robustness-model={name}" for name in (*NASTY, "last")),
        *REPORTS,
        f"--robustness-corpus={NASTY[1]}",
        f"--robustness-policy={NASTY[3]}",
        f"--robustness-reference={NASTY[5]}",
        "--robustness-shard=1/3",
        "-n",
        "2",
        "-k",
        *NASTY,
    ]


def test_what_is_not_given_is_no_argument(recording: Path) -> None:
    found = recorded("Vet", {"models": "it"}, recording)
    assert found == ["-m", "pytest", "--robustness-model=it", *REPORTS]


@pytest.mark.parametrize("models", ["", " \n\t\n", "\r\n"])
def test_without_a_checkpoint_nothing_is_vetted_and_nothing_passes(
    models: str, recording: Path
) -> None:
    """pytest would run the repository's own tests, and pass."""
    assert recorded("Vet", {"models": models}, recording, exit_code=4) == []


@pytest.mark.parametrize("nasty", NASTY)
def test_a_package_is_one_argument_of_pip(nasty: str, recording: Path) -> None:
    given = {"package": nasty, "extras": nasty, "constraints": nasty}
    assert recorded("Install", given, recording) == [
        "-m", "pip", "install", "--quiet", f"--constraint={nasty}", "--", f"{nasty}[{nasty}]",
    ]  # fmt: skip


def test_by_default_the_action_installs_the_commit_it_is_of(recording: Path) -> None:
    assert recorded("Install", {}, recording) == [
        "-m", "pip", "install", "--quiet", f"--constraint={ROOT / 'constraints.txt'}", "--",
        f"{ROOT}[xdist]",
    ]  # fmt: skip
    (recording.parent / "record").unlink()
    bare = recorded("Install", {"extras": "", "constraints": ""}, recording)
    assert bare == ["-m", "pip", "install", "--quiet", "--", str(ROOT)]


def test_the_folders_it_chooses_are_there(tmp_path: Path) -> None:
    result = run_script(STEPS["Choose folders"]["run"], tmp_path, {})
    assert result.returncode == 0, result.stderr
    found = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert found == {
        "reports": str(tmp_path / "temp" / "robustness-reports"),
        "store": str(tmp_path / "temp" / "robustness-store"),
        "hub": str(tmp_path / ".cache" / "huggingface" / "hub"),
    }
    assert Path(found["reports"]).is_dir()
    assert Path(found["store"]).is_dir()


def test_a_checkpoint_with_a_hostile_name_is_vetted(stubs: Stubs, tmp_path: Path) -> None:
    name = "it; touch pwned $(touch pwned) `touch pwned` 'a\" & ::error::x"
    shutil.copytree(stubs.model, tmp_path / name)
    reports = tmp_path / "reports"
    values = {f"inputs.{key}": text for key, text in DEFAULTS.items()}
    values |= {
        "inputs.models": f"./{name}",
        "inputs.corpus": str(stubs.corpus),
        "steps.places.outputs.reports": str(reports),
        "steps.places.outputs.store": str(stubs.store),
    }
    step = STEPS["Vet"]
    result = run_script(only_known_options(step["run"]), tmp_path, environment(step, values))
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (tmp_path / "pwned").exists()
    facts = read_json(reports / "vetting.json")
    assert facts["checkpoints"][0]["reference"] == f"./{name}"
    assert set(verdicts(facts).values()) == {"pass"}
    assert (reports / "vetting.xml").stat().st_size > 1000


def only_known_options(script: str) -> str:
    """The script without options that this version of the plugin has not."""
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    known = {name for group in parser._groups for each in group.options for name in each.names()}
    lines = [
        line
        for line in script.splitlines()
        if not (found := re.search(r"--robustness-\w+(?==\$REPORTS)", line)) or found[0] in known
    ]
    return "\n".join(lines) + "\n"
