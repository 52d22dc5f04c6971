"""``robustness fleet`` on nodes of its own: what a node does, and what the command makes of it."""

import json
import signal
import subprocess
import sys
import threading
import time
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.fleet import node, ray_cluster
from robustness.fleet.leash import LET_GO
from robustness.fleet.run import Event, Node, result_of
from robustness.fleet.tasks import Task
from robustness.run.shards import Part
from tests.support.plugin.plugin_support import LABEL, Stubs, read_json

# --- a node --------------------------------------------------------------------------------------


def task_for(stubs: Stubs, *arguments: str, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    task = Task(
        part=Part(index=1, count=1),
        name="x",
        arguments=(*stubs.options, *arguments),
        needs=needs,
        threads=1,
    )
    return asdict(task)


def test_a_checkpoint_that_a_node_has_not_is_named(stubs: Stubs, tmp_path: Path) -> None:
    answer = node.vet(task_for(stubs, needs=(str(stubs.model), str(tmp_path / "gone"))), {})
    found = result_of(answer)
    assert found.kind == "refused"
    assert found.text.startswith(f"{tmp_path / 'gone'} is not there on this node; every node must")


def leashed() -> list[psutil.Process]:
    """Runs that tests of this process have started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if str(node.LEASH) in child.cmdline()]


def eventually(wanted: Callable[[], object], *, within: float = 60) -> Any:
    end = time.monotonic() + within
    while not (found := wanted()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def test_a_killed_run_is_lost_and_leaves_nothing(stubs: Stubs) -> None:
    def kill() -> None:
        eventually(leashed)[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    answer = node.vet(task_for(stubs), {"corpus/text.txt": b"x"})
    killer.join()
    assert result_of(answer).text == f"pytest was ended by signal {signal.SIGKILL:d}"
    assert answer["report"] is None
    assert leashed() == []


def test_a_run_ends_with_whoever_started_it(stubs: Stubs, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", str(node.LEASH), *stubs.options, "-v"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert any("test session starts" in line for line in process.stdout)
        process.stdin.close()  # as when the worker of the cluster is killed
        assert process.wait(timeout=60) == LET_GO


# --- the command, on nodes of its own ------------------------------------------------------------


class Here:
    """A cluster of one node: this process, one task after the other."""

    def __init__(self, *, files: Mapping[str, bytes], **_: object) -> None:
        self._files = files
        self._waiting: list[Task] = []

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()

    def submit(self, task: Task, *, avoid: Node | None) -> None:
        del avoid
        self._waiting.append(task)

    def wait(self) -> Sequence[Event]:
        task = self._waiting.pop(0)
        answer = json.loads(json.dumps(node.vet(asdict(task), self._files)))
        return [Event(task=task, node=Node(id="1", name="here"), result=result_of(answer))]


def fleet_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["fleet", *arguments])


def test_the_command_vets_every_checkpoint_and_gives_one_verdict(
    stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RayCluster", Here)
    monkeypatch.chdir(stubs.root)
    (tmp_path / "robustness.toml").write_text("[checks.ablation_degrades]\nmin_ratio = 1.07\n")
    result = fleet_command(
        f"./a/{LABEL}",
        "plain",
        "--corpus=corpus.txt",
        f"--policy={tmp_path / 'robustness.toml'}",
        f"--store={stubs.store}",
        f"--json={tmp_path / 'all.json'}",
        f"--junit={tmp_path / 'all.xml'}",
        "--",
        "--robustness-confidence=0.98",
    )
    assert result.exit_code == 1, result.output  # one of them has no outlier dimensions
    found = read_json(tmp_path / "all.json")
    first, second = found["checkpoints"]
    assert {check["outcome"] for check in first["checks"]} == {"pass"}
    assert "fail" in {check["outcome"] for check in second["checks"]}
    assert (first["reference"], found["confidence"]) == (str(stubs.model), 0.98)
    assert found["policy"] == str(tmp_path / "robustness.toml")
    assert {c["threshold"] for c in first["checks"] if "ablation_degrades[" in c["id"]} >= {1.07}
    assert found["problems"] == []
    suite = ET.parse(tmp_path / "all.xml").getroot()[0]
    assert len(suite.findall("testcase")) == 12
    assert f"{LABEL} (shard 1/2): passed on here" in result.stderr
    assert "plain (shard 2/2): did not pass on here" in result.stderr
    assert "the run of 2 shards did not pass" in result.stdout


def test_an_unusable_corpus_ends_the_command_with_its_sentence(
    stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RayCluster", Here)
    monkeypatch.chdir(tmp_path)
    result = fleet_command(str(stubs.model), "--corpus=nonsense", "--json=all.json")
    assert result.exit_code == 2
    assert "corpus 'nonsense' is neither an existing file nor a data set" in result.stderr
    assert not Path("all.json").exists()


def test_an_impossible_policy_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RayCluster", None)
    monkeypatch.chdir(tmp_path)
    Path("robustness.toml").write_text("nonsense = 1")
    result = fleet_command("a/b")
    assert result.exit_code == 2
    assert "unknown key 'nonsense'" in result.stderr


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = fleet_command("a/b")
    assert result.exit_code == 2
    assert result.stderr == (
        "robustness: a fleet needs Ray: pip install 'pytest-robustness[fleet]'\n"
    )


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--cpus-per-task=1.5", "above 1, Ray counts whole ones only"),
        ("--gpus-per-task=2.5", "above 1, Ray counts whole ones only"),
        ("--address=ray://head:10001", "that of a Ray client"),
        ("--address=127.0.0.1:1", "no Ray cluster answers"),
    ],
)
def test_what_ray_would_not_take_is_refused(
    option: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # never asked
    result = fleet_command("a/b", option)
    assert result.exit_code == 2
    assert named in result.stderr
    assert option in result.stderr


def test_ctrl_c_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Here):
        def wait(self) -> Sequence[Event]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ray_cluster, "RayCluster", Interrupted)
    result = fleet_command("a/b")
    assert result.exit_code == 2
    assert result.stderr.endswith("robustness: interrupted; there is no verdict\n")
