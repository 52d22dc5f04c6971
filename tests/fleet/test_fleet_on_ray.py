"""``robustness fleet`` on a Ray cluster of two workers, whose processes and machines die.

Needs Ray (``pip install 'pytest-robustness[fleet]'``); run by ``tox -e fleet``.
"""

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from robustness.fleet.node import LEASH
from tests.support.plugin.plugin_support import LABEL, Stubs, checks, read_json, run_suite, verdicts

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

NAMES = (f"a-{LABEL}", f"b-{LABEL}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes for one task each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            found.add_node(num_cpus=1)
        found.wait_for_nodes()
        yield found
    finally:
        found.shutdown()


@pytest.fixture(scope="module")
def whole(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run on one machine, undivided."""
    options = (f"--model={stubs.model}", f"--model={stubs.other}", *stubs.surroundings)
    run = run_suite(tmp_path_factory.mktemp("whole"), *options)
    assert run.result.ret == 0
    return run.facts


class Started:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._log = folder / "stderr.txt"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "RAY_"))}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robustness", "fleet", *arguments],
                cwd=folder,
                env={**kept, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def log(self) -> str:
        """The progress so far, and errors."""
        return self._log.read_text()

    def end(self, within: float = 300) -> tuple[int, str]:
        """Exit code and standard output."""
        output, _ = self.process.communicate(timeout=within)
        sys.stdout.write(output)
        sys.stdout.write(self.log)
        return self.process.returncode, output


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Started]:
    run = Started(folder, *arguments)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()
        assert eventually(lambda: not vetting(), within=30)


def eventually(wanted: Callable[[], Any], *, within: float = 60) -> Any:
    end = time.monotonic() + within
    while not (found := wanted()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def vetting(shard: str = "") -> list[psutil.Process]:
    """Runs of pytest that a fleet of ours has started, or that of one shard."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if str(LEASH) in command and any(f"--robustness-shard={shard}" in a for a in command):
            found.append(process)
    return found


def vetted(stubs: Stubs, address: str, *more: str) -> tuple[str, ...]:
    return (
        str(stubs.model),
        str(stubs.other),
        f"--address={address}",
        f"--corpus={stubs.corpus}",
        f"--store={stubs.store}",
        "--json=all.json",
        "--junit=all.xml",
        *more,
    )


def agree(facts: dict[str, Any], whole: dict[str, Any]) -> None:
    """Identical ids, verdicts and block counts; numbers within 1e-5."""
    assert facts["passed"]
    assert verdicts(facts) == verdicts(whole)
    assert facts["alpha"] == whole["alpha"]
    for name, check in checks(facts).items():
        other = checks(whole)[name]
        assert check["seen"] == other["seen"]
        if other["measured"] is None:
            assert check["measured"] is None
        else:
            assert check["measured"] == pytest.approx(other["measured"], rel=1e-5)


def test_a_killed_worker_is_replaced(
    cluster: Any, stubs: Stubs, whole: dict[str, Any], tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, cluster.address)) as run:
        (process,) = eventually(lambda: vetting("1/2"))
        process.parent().kill()  # the Ray worker; pytest itself is on a leash
        process.wait(timeout=30)
        status, output = run.end()
    assert status == 0
    assert f"{NAMES[0]} (shard 1/2): lost on " in run.log
    assert f"{NAMES[0]} (shard 1/2): waiting, attempt 2 of 3" in run.log
    assert f"{NAMES[1]} (shard 2/2): waiting, attempt" not in run.log
    assert "raylet" not in output
    agree(read_json(tmp_path / "all.json"), whole)


def test_a_worker_that_is_always_killed_fails_the_run(
    cluster: Any, stubs: Stubs, tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, cluster.address, "--retries=1")) as run:
        for _ in range(2):
            (process,) = eventually(lambda: vetting("1/2"))
            process.kill()  # pytest itself, as the kernel does when memory is short
            process.wait(timeout=30)
        status, output = run.end()
    assert status == 1
    facts = read_json(tmp_path / "all.json")
    assert not facts["passed"]
    assert facts["problems"][0] == (
        f"{NAMES[0]} (shard 1/2) has no report after 2 attempts: pytest was ended by signal 9"
    )
    assert "shard 1/2 is missing" in facts["problems"]
    missing = [problem for problem in facts["problems"] if problem.endswith("has no verdict")]
    assert len(missing) == 6
    assert set(verdicts(facts).values()) == {"pass"}  # those of the other
    suite = ET.parse(tmp_path / "all.xml").getroot()[0]
    assert suite.get("errors") == "8"
    assert "has no verdict" in output


def test_a_lost_node_is_replaced_by_another(
    cluster: Any, stubs: Stubs, whole: dict[str, Any], tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, cluster.address)) as run:
        (process,) = eventually(lambda: vetting("2/2"))
        above = {parent.pid for parent in process.parents()}
        (lost,) = [
            worker
            for worker in cluster.worker_nodes
            if worker.all_processes["raylet"][0].process.pid in above
        ]
        cluster.remove_node(lost, allow_graceful=False)
        status, _ = run.end()
    cluster.add_node(num_cpus=1)  # for other tests
    assert status == 0
    assert f"{NAMES[1]} (shard 2/2): lost on " in run.log
    assert f"{NAMES[1]} (shard 2/2): waiting, attempt 2 of 3" in run.log
    agree(read_json(tmp_path / "all.json"), whole)


def test_a_failed_check_is_a_verdict(cluster: Any, stubs: Stubs, tmp_path: Path) -> None:
    with started(tmp_path, *vetted(stubs, cluster.address, "--expectation=hardened")) as run:
        status, _ = run.end()
    assert status == 1
    assert run.log.count("did not pass on") == 2
    assert "attempt 2" not in run.log
    assert not read_json(tmp_path / "all.json")["passed"]


def test_what_no_node_has_is_given_up(cluster: Any, stubs: Stubs, tmp_path: Path) -> None:
    wanting = ("--gpus-per-task=8", "--patience=1")
    with started(tmp_path, *vetted(stubs, cluster.address, *wanting)) as run:
        status, _ = run.end()
    assert status == 1
    assert "no node has 1 CPU and 8 GPUs yet; waiting 1 s for one" in run.log
    problems = read_json(tmp_path / "all.json")["problems"]
    assert len(problems) == 2
    assert all("no node with 1 CPU and 8 GPUs came up" in problem for problem in problems)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_nothing_running(
    sent: signal.Signals, stubs: Stubs, tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, "local")) as run:
        eventually(lambda: vetting("1/2"))
        children = psutil.Process(run.process.pid).children(recursive=True)
        assert {"raylet", "gcs_server"} <= {child.name() for child in children}
        run.process.send_signal(sent)
        status, output = run.end(within=60)
    assert status != 0
    assert output == ""
    if sent == signal.SIGINT:
        assert status == 2
        assert run.log.endswith("robustness: interrupted; there is no verdict\n")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_an_interrupted_run_leaves_nothing_on_the_cluster(
    cluster: Any, stubs: Stubs, tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, cluster.address)) as run:
        processes = eventually(lambda: len(found := vetting()) == 2 and found)
        run.process.send_signal(signal.SIGINT)
        assert run.end(within=60) == (2, "")
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def test_a_ray_of_its_own_ends_with_the_run(
    stubs: Stubs, whole: dict[str, Any], tmp_path: Path
) -> None:
    with started(tmp_path, *vetted(stubs, "local")) as run:
        eventually(lambda: vetting("1/2"))
        children = psutil.Process(run.process.pid).children(recursive=True)
        status, _ = run.end()
    assert status == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    agree(read_json(tmp_path / "all.json"), whole)
