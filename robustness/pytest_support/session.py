"""The run: planned once in the controller, handed to the workers, checked for completeness."""

import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from robustness.errors import RobustnessError
from robustness.plan import RunPlan, make_plan
from robustness.policy import Policy, load_policy
from robustness.pytest_support.gate import VERDICT, record
from robustness.pytest_support.progress import ProgressLine
from robustness.report import facts, terminal
from robustness.verdict import Verdict
from robustness.vetting import Vetting

PLAN_INPUT = "robustness_plan"
SUITE_INPUT = "robustness_suite"
REPORTED = "robustness"


@dataclass(kw_only=True)
class RunState:
    """What a process of the run holds.

    Attributes:
        plan: the run's plan.
        threads: processor threads for the model.
        progress: shows how far a measurement has come.
    """

    plan: RunPlan
    threads: int | None
    progress: ProgressLine
    _vettings: dict[str, Vetting] = field(default_factory=dict)

    def vetting(self, label: str) -> Vetting:
        """The vetting of one checkpoint, the same for all tests of this process."""
        if label not in self._vettings:
            planned = self.plan.named(label)
            self._vettings[label] = Vetting(
                checkpoint=planned.load(),
                settings=planned.settings,
                store_root=self.plan.store_root,
                confidence=self.plan.confidence,
                examination=planned.examination,
                threads=self.threads,
                progress=self.progress.show,
            )
        return self._vettings[label]

    def release(self, label: str) -> None:
        """Let go of a checkpoint's model."""
        self._vettings.pop(label, None)


STATE = pytest.StashKey[RunState]()


def register(config: pytest.Config) -> None:
    """Add the parts that a run with a checkpoint needs."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.pluginmanager.register(Recorder(), "robustness-recorder")
    if workerinput is None:
        suite = config.args_source is not pytest.Config.ArgsSource.ARGS
        config.pluginmanager.register(Controller(config, suite=suite), "robustness-controller")
    else:
        suite = workerinput[SUITE_INPUT]
        config.stash[STATE] = RunState(
            plan=RunPlan.from_json(workerinput[PLAN_INPUT]),
            threads=max(1, _cores() // workerinput["workercount"]),
            progress=ProgressLine(None),
        )
    if suite:
        from robustness.pytest_support.collection import SuiteCollection

        config.pluginmanager.register(SuiteCollection(), "robustness-suite")


class Recorder:
    """In every process: ties each test's report to its verdict."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the verdict on the report; an error in a suite test is a verdict, too."""
        error = call.excinfo.value if call.excinfo is not None else None
        check = getattr(item, "callspec", None) and item.callspec.params.get("check")  # type: ignore[attr-defined]
        if check is not None and VERDICT not in item.stash and isinstance(error, Exception):
            claim = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
            record(item, Verdict(outcome="error", claim=claim, reason=str(error)))
        report = yield
        if isinstance(error, RobustnessError):
            report.longrepr = f"{type(error).__name__}: {error}"
        verdict = item.stash.get(VERDICT, None)
        if verdict is not None and check is not None and report.when != "teardown":
            label = item.callspec.params["checkpoint"]  # type: ignore[attr-defined]
            # JSON text: only plain types may travel from a worker to the controller.
            found = facts.check_facts(item.nodeid, label, check, verdict)
            report.__dict__[REPORTED] = json.dumps(found)
        return report


class Controller:
    """In the process the user started: plans, collects verdicts, reports, and fails closed."""

    def __init__(self, config: pytest.Config, *, suite: bool) -> None:
        self.config = config
        self.suite = suite
        self.started = datetime.now(UTC)
        self.records: dict[str, dict[str, Any]] = {}
        self.collected: set[str] = set()
        self.problems: list[str] = []
        self.plan: RunPlan | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Resolve, examine and plan before any worker starts or test is collected.

        Raises:
            pytest.UsageError: with one sentence, for everything that is wrong by then.
        """
        progress = ProgressLine(self.config)
        try:
            policy = _policy(self.config)
            self.plan = make_plan(
                self.config.getoption("robustness_models"),
                policy,
                store_root=_store_root(self.config),
                progress=progress.step,
            )
        except RobustnessError as error:
            raise pytest.UsageError(f"robustness: {error}") from None
        finally:
            progress.clear()
        self.config.stash[STATE] = RunState(plan=self.plan, threads=None, progress=progress)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the plan to a worker, as text."""
        assert self.plan is not None
        node.workerinput[PLAN_INPUT] = self.plan.to_json()
        node.workerinput[SUITE_INPUT] = self.suite

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
        self.collected.update(nodeid for nodeid in ids if nodeid.split("::")[-1] in expected)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in a verdict."""
        text = report.__dict__.get(REPORTED)
        if isinstance(text, str):
            self.records[report.nodeid] = json.loads(text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail unless every check that was collected has handed in a verdict; write the JSON."""
        if self.plan is None or self.config.option.collectonly:
            return
        self.problems = facts.problems(self.plan, self.collected, self.records)
        if self.problems and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
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


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_rootdir_in_model_folder(config: pytest.Config, args: Sequence[str]) -> None:
    """Never run with a checkpoint's folder as root: its conftest.py or ini file would be code.

    pytest takes ``./folder`` in ``--model ./folder`` for a test path before plugins are loaded.

    Raises:
        pytest.UsageError: if the root directory or ini file lies inside a model folder.
    """
    for text in _model_arguments(args):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            continue
        places = [config.rootpath, *([config.inipath] if config.inipath else [])]
        if any(place.resolve().is_relative_to(folder.resolve()) for place in places):
            raise pytest.UsageError(
                f"robustness: pytest's root directory lies inside the checkpoint's folder {text}, "
                f"so files in it would be run as code; write --model={text} with the equals sign, "
                "and run from another folder"
            )


def _model_arguments(args: Sequence[str]) -> list[str]:
    found = []
    for position, argument in enumerate(args):
        name, equals, value = str(argument).partition("=")
        if name in ("--model", "--robustness-model"):
            found.append(value if equals else "".join(map(str, args[position + 1 : position + 2])))
    return [text for text in found if text]
