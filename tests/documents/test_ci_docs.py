"""docs/CI.md: its workflows are well formed, fit the action, and do what they are said to do."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustness.cli.app import app
from tests.documents.test_action import only_known_options
from tests.support.plugin.plugin_support import Stubs, read_json
from tests.support.plugin.workflows import EXPRESSION, ROOT, action, environment, parsed, run_script

TEXT = (ROOT / "docs" / "CI.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [text for _, text in FENCE.findall(TEXT)]
GITHUB = {text["name"]: text for text in map(parsed, BLOCKS) if "on" in text}
(GITLAB,) = [text for text in map(parsed, BLOCKS) if "on" not in text]
OURS = "ORGANISATION/pytest-robustness@COMMIT"
VET = next(step for step in action()["runs"]["steps"] if step["name"] == "Vet")


def steps() -> Iterator[dict[str, Any]]:
    for workflow in GITHUB.values():
        for job in workflow["jobs"].values():
            yield from job["steps"]


def test_there_is_something_to_test() -> None:
    assert set(GITHUB) == {"vet", "vet on three machines", "release"}
    assert all(kind == "yaml" for kind, _ in FENCE.findall(TEXT))


@pytest.mark.parametrize("workflow", GITHUB.values(), ids=GITHUB.keys())
def test_a_workflow_is_well_formed_and_may_do_little(workflow: dict[str, Any]) -> None:
    assert set(workflow) == {"name", "on", "permissions", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job)
        assert job.get("needs", next(iter(workflow["jobs"]))) in workflow["jobs"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert set(step) <= {"id", "if", "uses", "with", "env", "run"}
            assert not EXPRESSION.search(step.get("run", ""))


def test_actions_are_pinned_and_the_same_commit_everywhere() -> None:
    pinned: dict[str, set[str]] = {}
    for text in (TEXT, (ROOT / "action.yml").read_text(encoding="utf-8")):
        for line in re.findall(r"uses: (.*)", text):
            if line != OURS:
                found = re.fullmatch(r"actions/([\w-]+)[\w/-]*@([0-9a-f]{40} # v[\d.]+)", line)
                assert found is not None, line
                pinned.setdefault(found[1], set()).add(found[2])
    assert len(pinned) == 5
    assert all(len(commits) == 1 for commits in pinned.values()), pinned


def test_our_action_gets_inputs_that_it_has() -> None:
    inputs, outputs = action()["inputs"], action()["outputs"]
    ours = [step for step in steps() if step.get("uses") == OURS]
    assert len(ours) == 3
    for step in ours:
        assert set(step["with"]) <= set(inputs)
        assert {name for name, each in inputs.items() if each.get("required")} <= set(step["with"])
        assert all(isinstance(value, str) for value in step["with"].values())
    assert set(re.findall(r"steps\.vet\.outputs\.(\w+)", TEXT)) <= set(outputs)
    for name in re.findall(r"`([a-z-]+): \"", TEXT):
        assert name in inputs


@pytest.fixture
def place(stubs: Stubs, tmp_path: Path) -> Path:
    """A repository in which what the workflows speak of exists."""
    shutil.copytree(stubs.model, tmp_path / "my-checkpoint")
    shutil.copytree(stubs.other, tmp_path / "another-one")
    shutil.copy(stubs.corpus, tmp_path / "text.txt")
    (tmp_path / "my-checkpoint" / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    return tmp_path


def vetted(step: dict[str, Any], place: Path, reports: Path, store: Path, **matrix: int) -> None:
    """Run the action's step with the inputs of a workflow's."""
    inputs = {name: each.get("default", "") for name, each in action()["inputs"].items()}
    for name, text in step["with"].items():
        for key, value in matrix.items():
            text = text.replace(f"${{{{ matrix.{key} }}}}", str(value))
        inputs[name] = text
    values = {f"inputs.{name}": text for name, text in inputs.items()}
    values |= {"steps.places.outputs.reports": str(reports)}
    values |= {"steps.places.outputs.store": str(store)}
    reports.mkdir(parents=True)
    script = only_known_options(VET["run"])
    result = run_script(script, place, environment(VET, values))
    assert result.returncode == 0, result.stdout + result.stderr


def without_installing(script: str) -> str:
    return "".join(line for line in script.splitlines(True) if not line.startswith("pip install"))


@pytest.mark.slow
def test_a_matrix_of_shards_comes_to_one_verdict(place: Path, stubs: Stubs) -> None:
    jobs = GITHUB["vet on three machines"]["jobs"]
    (step,) = [each for each in jobs["shard"]["steps"] if each.get("uses") == OURS]
    for n in jobs["shard"]["strategy"]["matrix"]["shard"]:
        artifact = step["with"]["artifact"].replace("${{ matrix.shard }}", str(n))
        vetted(step, place, place / "shards" / artifact, stubs.store, shard=n)
    (script,) = [each["run"] for each in jobs["verdict"]["steps"] if "run" in each]
    result = run_script(without_installing(script), place, {})
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_json(place / "vetting.json")["passed"]
    assert (place / "vetting.xml").exists()
    shutil.rmtree(place / "shards" / "shard-2")
    assert run_script(without_installing(script), place, {}).returncode == 1
    shutil.rmtree(place / "shards")
    assert run_script(without_installing(script), place, {}).returncode == 2


@pytest.mark.slow
def test_gitlabs_jobs_come_to_one_verdict(place: Path) -> None:
    for n in range(1, GITLAB["shard"]["parallel"] + 1):
        variables = {"CI_NODE_INDEX": str(n), "CI_NODE_TOTAL": str(GITLAB["shard"]["parallel"])}
        result = run_script("\n".join(GITLAB["shard"]["script"]), place, variables)
        assert result.returncode == 0, result.stdout + result.stderr
    result = run_script("\n".join(GITLAB["verdict"]["script"]), place, {})
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_json(place / "vetting.json")["passed"]
    assert GITLAB["verdict"]["artifacts"]["reports"]["junit"] == "vetting.xml"


def test_what_is_installed_is_a_repository_and_no_name_on_pypi(tmp_path: Path) -> None:
    (merging,) = [
        each
        for each in GITHUB["vet on three machines"]["jobs"]["verdict"]["steps"]
        if "run" in each
    ]
    for script, variables in (
        (merging["run"].splitlines()[0], merging["env"]),
        (*GITLAB["default"]["before_script"], GITLAB["variables"]),
    ):
        told = run_script(script.replace("pip install", "printf %s"), tmp_path, variables).stdout
        name, _, source = told.partition(" @ ")
        assert name == "pytest-robustness"
        assert source == f"git+https://github.com/{OURS}"


def test_gitlabs_jobs_hang_together() -> None:
    assert set(GITLAB) == {"variables", "default", "shard", "verdict"}
    assert GITLAB["verdict"]["needs"] == ["shard"]
    assert GITLAB["verdict"]["when"] == GITLAB["shard"]["artifacts"]["when"] == "always"


def test_a_release_is_vetted_told_of_and_only_then_uploaded(place: Path, stubs: Stubs) -> None:
    if "card" not in {command.name for command in app.registered_commands}:
        pytest.skip("this version has no command card")
    job = GITHUB["release"]["jobs"]["release"]["steps"]
    assert ["HF_TOKEN" in str(step) for step in job] == [False, False, False, True]
    vet, card, upload = job[1:]
    reports = place / "reports"
    vetted(vet, place, reports, stubs.store)
    variables = environment(card, {"steps.vet.outputs.reports": str(reports)})
    result = run_script(card["run"], place, variables)
    assert result.returncode == 0, result.stdout + result.stderr
    text = (place / "my-checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "model-index" in text
    assert "license: mit" in text
    tools = place / "bin"
    tools.mkdir()
    (tools / "hf").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > uploaded\n')
    (tools / "hf").chmod(0o755)
    variables = environment(upload, {"secrets.HF_TOKEN": "x"})
    assert run_script(upload["run"], place, variables, first_in_path=tools).returncode == 0
    uploaded = (place / "uploaded").read_text().split()
    assert uploaded == ["upload", "organisation/my-checkpoint", "my-checkpoint"]
