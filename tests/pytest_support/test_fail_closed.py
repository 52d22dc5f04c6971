"""What could let a run pass although something went wrong, beside test_plugin_fail_closed.py."""

import json
import os
import textwrap
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness.checks.planned import PlannedCheck
from robustness.pytest_support.gate import VERDICT, record
from robustness.pytest_support.session import register
from robustness.pytest_support.state import STATE
from robustness.report.collected import check_result
from robustness.report.results import CheckResult
from robustness.runtime.threads import SharedCores, cores
from robustness.statistics.verdict import Verdict
from tests.support.plugin.plugin_support import DIM, LABEL, Stubs, read_json
from tests.support.records.plans import plan

NUMPY = Verdict(
    outcome="fail",
    statement="statement",
    measured=np.float64(np.inf),
    interval=(np.float64(0.5), np.float64(np.inf)),
    threshold=np.float64(1.5),
    seen=32,
    tokens=600,
)
"""A verdict on numbers as numpy hands them out."""


class Item:
    """The part of a test item that a verdict is kept with."""

    def __init__(self) -> None:
        self.stash = pytest.Stash()
        self.user_properties: list[tuple[str, object]] = []


def test_only_plain_types_travel_from_a_worker() -> None:
    """execnet refuses all others: the worker dies, and the session may still exit with 0."""
    item: Any = Item()
    record(item, NUMPY)
    assert item.stash[VERDICT] is NUMPY
    assert len(item.user_properties) == 7
    for name, value in item.user_properties:
        assert type(name) is str
        assert type(value) in (str, int, float)


def test_a_decided_check_is_json_whatever_numbers_it_holds() -> None:
    check = PlannedCheck(check="joint_ablation_degrades", dims=(DIM,))
    found = check_result("id", check, NUMPY)
    text = found.model_dump_json()
    assert json.loads(text)["measured"] == "inf"
    assert CheckResult.model_validate_json(text) == found


class WorkerConfig:
    """What a worker of three knows of its run."""

    def __init__(self, folder: Path) -> None:
        self.workerinput = {
            "robustness": (plan("a").to_json(), True, str(folder), os.getpid()),
            "workercount": 3,
            "workerid": "gw1",
        }
        self.stash = pytest.Stash()
        self.pluginmanager = pytest.PytestPluginManager()

    def getoption(self, _name: str) -> list[str]:
        return []


def test_workers_share_the_cores_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config: Any = WorkerConfig(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for n_cores, threads in ((12, 4), (4, 1), (2, 1)):
        monkeypatch.setattr("robustness.pytest_support.session.cores", lambda n=n_cores: n)
        config.pluginmanager = pytest.PytestPluginManager()
        register(config)
        # The three workers would all compute; this one counts itself, whoever else does.
        share = config.stash[STATE].threads
        assert isinstance(share, SharedCores)
        with ExitStack() as busy:
            for number in range(share.processes):
                busy.enter_context(replace(share, number=number).computing())
            assert share() == threads
    assert cores() >= 1


@pytest.mark.slow
def test_a_worker_that_cannot_report_fails_the_run(pytester: pytest.Pytester, stubs: Stubs) -> None:
    """Somebody's plugin puts a path into the properties of a test, which kills its worker."""
    pytester.makepyfile(
        putting=textwrap.dedent(
            """
            from pathlib import Path

            def pytest_runtest_call(item):
                if item.name.startswith("test_joint"):
                    item.user_properties.append(("where", Path("here")))
            """
        )
    )
    result = pytester.runpytest_subprocess(
        *stubs.options, "-n", "2", "-p", "putting", "--robustness-json=report.json"
    )
    assert result.ret != pytest.ExitCode.OK
    facts = read_json(pytester.path / "report.json")
    assert not facts["passed"]
    assert any(
        f"test_joint_ablation_degrades[{LABEL}-dim{DIM}] was collected but gave no verdict"
        in problem
        for problem in facts["problems"]
    )


def test_no_worker_that_starts_is_a_failure_and_a_sentence(
    pytester: pytest.Pytester, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest(
        """
        import os

        if "PYTEST_XDIST_WORKER" in os.environ:
            raise RuntimeError("no licence for this process")
        """
    )
    result = pytester.runpytest_subprocess(
        *stubs.options, "-n", "1", "--max-worker-restart=0", "--robustness-json=report.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (problem,) = read_json(pytester.path / "report.json")["problems"]
    assert problem.startswith("none of 6 checks was collected")
    assert problem in " ".join(line.strip() for line in result.outlines)
