"""Workers that start beside the controller: what they wait for, and when they give up."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from robustness.pytest_support.handover import Handover
from tests.support.plugin.faults import environment_with
from tests.support.plugin.plugin_support import Stubs, error_sentence, run_pytest

WAITING = """
import sys
from pathlib import Path
from robustness.pytest_support import handover
from robustness.pytest_support.handover import received
load = handover._load
handover._load = lambda: (load(), print("loaded", flush=True))
print("waiting", flush=True)
text = received(Path(sys.argv[1]), int(sys.argv[2]))
print(text, "transformers.modeling_utils" in sys.modules, "torch" in sys.modules)
"""

IN_BETWEEN = """
import os, subprocess, sys
command = [sys.executable, *sys.argv[1:-1], str(os.getpid())]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
child.stdout.readline()  # it waits
print(child.pid, flush=True)
"""

PATIENCE_S = 60.0


BROKEN = """
import runpy, sys
from robustness.pytest_support import handover

def broken():
    raise ImportError("no room")

handover.load_libraries = broken
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

LISTING = """
import os, sys
from pathlib import Path

def pytest_unconfigure(config):
    name = os.environ.get("PYTEST_XDIST_WORKER", "controller")
    Path(f"modules-{name}.txt").write_text(" ".join(sys.modules))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a run, in which there is no plan yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def _waiting(place: Path, *before: str) -> "subprocess.Popen[str]":
    """A process that waits for a plan, or one that has started one."""
    script = place.with_name("waiting.py")
    script.write_text(WAITING)
    command = [sys.executable, *before, str(script), str(place), str(os.getpid())]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment_with()
    )


def _read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("loading", [False, True])
def test_a_worker_loads_torch_if_the_controller_does(place: Path, loading: bool) -> None:
    import transformers.modeling_utils  # noqa: F401 (as a controller that plans)

    handover = Handover(place)
    with _waiting(place) as worker:
        assert _read(worker) == "waiting"
        if loading:
            with handover.planning():
                assert _read(worker) == "loaded"
        handover.give("the plan")
        assert _read(worker) == f"the plan {loading} {loading}"
        assert worker.wait(PATIENCE_S) == 0


def test_a_worker_that_cannot_load_them_yet_waits_for_the_plan(place: Path) -> None:
    """What is wrong is told by the check that needs them."""
    handover = Handover(place)
    with _waiting(place, "-c", BROKEN) as worker:
        assert _read(worker) == "waiting"
        (place / "plan" / "loading").touch()
        assert _read(worker) == "loaded"
        handover.give("the plan")
        assert _read(worker) == "the plan False False"
        assert worker.wait(PATIENCE_S) == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(place: Path) -> None:
    handover = Handover(place)
    shutil.rmtree(place)
    for attempt in (lambda: Handover(place), lambda: handover.give("the plan")):
        with pytest.raises(pytest.UsageError, match="cannot be handed the plan") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_worker_ends_when_the_controller_gives_up(place: Path) -> None:
    Handover(place)
    with _waiting(place) as worker:
        assert _read(worker) == "waiting"
        shutil.rmtree(place)  # as a run does at its end, whatever it was
        assert _read(worker) == ""
        assert worker.wait(PATIENCE_S) == 0


def test_a_worker_ends_when_the_controller_was_killed(place: Path) -> None:
    Handover(place)
    with _waiting(place, "-c", IN_BETWEEN) as controller:
        waiting = int(_read(controller))
        assert controller.wait(PATIENCE_S) == 0
    until = time.monotonic() + PATIENCE_S
    while psutil.pid_exists(waiting) and psutil.Process(waiting).status() != "zombie":
        assert time.monotonic() < until, "it waits for ever"
        time.sleep(0.05)
    assert not place.exists()


@pytest.mark.parametrize(
    ("conftest", "spared"),
    [("", {"torch", "transformers"}), ("import torch", {"transformers.modeling_utils"})],
    ids=["", "with-torch-of-their-own"],
)
def test_workers_of_a_run_from_the_store_load_no_machine_learning(
    stubs: Stubs, tmp_path: Path, measured: dict[str, Any], conftest: str, spared: set[str]
) -> None:
    del measured  # everything is in the store
    (tmp_path / "conftest.py").write_text(f"{conftest}\n{LISTING}")
    result = run_pytest(tmp_path, *stubs.options, "-n", "2", python=sys.executable)
    assert result.ret == pytest.ExitCode.OK
    files = sorted(tmp_path.glob("modules-*.txt"))
    assert [file.stem for file in files] == ["modules-controller", "modules-gw0", "modules-gw1"]
    for file in files:
        assert spared.isdisjoint(file.read_text().split())


def test_a_run_that_is_refused_leaves_no_worker(stubs: Stubs, tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path, f"--model={stubs.model}", "--robustness-corpus=nowhere.txt", "-n", "2"
    )
    assert "nowhere.txt" in error_sentence(result)
    assert not [process for process in psutil.process_iter(["cwd"]) if _runs_in(process, tmp_path)]


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    return bool(process.info["cwd"] == str(folder))
