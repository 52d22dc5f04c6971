"""In the process the user started: plans, collects verdicts, reports, and fails closed."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from robustness.errors import RobustnessError
from robustness.plan import RunPlan, make_plan
from robustness.policy import Policy, load_policy
from robustness.pytest_support.collection import ID_PREFIX
from robustness.pytest_support.progress import Line, Watcher
from robustness.pytest_support.recorder import REPORTED
from robustness.pytest_support.state import STATE, RunState
from robustness.report import facts, terminal

PLAN_INPUT = "robustness_plan"
SUITE_INPUT = "robustness_suite"
PROGRESS_INPUT = "robustness_progress"


class Controller:
    """The run as the user sees it; workers only decide checks."""

    def __init__(self, config: pytest.Config, *, suite: bool) -> None:
        self.config = config
        self.suite = suite
        self.started = datetime.now(UTC)
        self.records: dict[str, dict[str, Any]] = {}
        self.collected: set[str] = set()
        self.problems: list[str] = []
        self.plan: RunPlan | None = None
        self.progress = Line(config)
        self.watcher: Watcher | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Resolve, examine and plan before any worker starts or test is collected.

        Raises:
            pytest.UsageError: with one sentence, for everything that is wrong by then.
        """
        file: Path | None = self.config.getoption("robustness_json")
        if file is not None:
            _require_writable(file)
        try:
            policy = _policy(self.config)
            self.plan = make_plan(
                self.config.getoption("robustness_models"),
                policy,
                store_root=_store_root(self.config),
                progress=self.progress.step,
            )
        except RobustnessError as error:
            raise pytest.UsageError(f"robustness: {error}") from None
        finally:
            self.progress.clear()
        self.config.stash[STATE] = RunState(plan=self.plan, threads=None, progress=self.progress)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the plan to a worker, as text."""
        assert self.plan is not None
        node.workerinput[PLAN_INPUT] = self.plan.to_json()
        node.workerinput[SUITE_INPUT] = self.suite
        if self.watcher is None:
            self.watcher = Watcher(self.progress.show)
        node.workerinput[PROGRESS_INPUT] = str(self.watcher.folder)

    def pytest_report_header(self) -> list[str]:
        """What is vetted, and how."""
        return [] if self.plan is None else terminal.header(self.plan)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember the tests of a run without workers."""
        self._remember([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Remember the tests of a run with workers."""
        self._remember(ids)

    def _remember(self, ids: Sequence[str]) -> None:
        assert self.plan is not None
        expected = facts.expected_names(self.plan)
        self.collected.update(
            nodeid
            for nodeid in ids
            if nodeid.startswith(ID_PREFIX) and nodeid.split("::")[-1] in expected
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in a verdict."""
        self.progress.clear()
        text = report.__dict__.get(REPORTED)
        if isinstance(text, str):
            self.records[report.nodeid] = json.loads(text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail unless every check that was collected has handed in a verdict; write the JSON."""
        if self.watcher is not None:
            self.watcher.stop()
        self.progress.clear()
        if self.plan is None or self.config.option.collectonly:
            return
        self.problems = facts.problems(self.plan, self.collected, self.records)
        if session.exitstatus == pytest.ExitCode.OK:
            self.problems += facts.hidden_failures(self.records)
            if self.problems:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        file: Path | None = self.config.getoption("robustness_json")
        if file is not None:
            facts.write_json(file, self._facts())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One table per checkpoint."""
        if self.plan is not None and not self.config.option.collectonly:
            terminal.write_summary(terminalreporter, self._facts(), self.problems)

    def _facts(self) -> dict[str, Any]:
        assert self.plan is not None
        return facts.run_facts(
            self.plan,
            self.records,
            collected=self.collected,
            problems=self.problems,
            started=self.started,
        )


def _require_writable(file: Path) -> None:
    """Find out before the run that its report could not be written after it.

    Raises:
        pytest.UsageError: if it could not.
    """
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise pytest.UsageError(
            f"robustness: --robustness-json={file} cannot be written; name a file in a folder that "
            "can"
        )


def _policy(config: pytest.Config) -> Policy:
    option = config.getoption
    given = {
        name: option(f"robustness_{name}")
        for name in (
            "corpus", "layout", "block_size", "profile", "rule", "confidence", "exhaustive",
            "seed", "device",
        )
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    enabled = option("robustness_enable") or []
    if enabled:
        options["checks"] = {name.removeprefix("test_"): {"enabled": True} for name in enabled}
    return load_policy(option("robustness_policy"), root=config.rootpath, options=options)


def _store_root(config: pytest.Config) -> Path:
    chosen: Path | None = config.getoption("robustness_store")
    if chosen is not None:
        return chosen.absolute()
    from platformdirs import user_cache_path

    return user_cache_path("pytest-robustness")
