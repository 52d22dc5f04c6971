"""In the process the user started: plans, collects verdicts, reports, and fails closed."""

import os
import shlex
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from robustness.errors import BaselineError
from robustness.pytest_support.completeness import Completeness, is_narrowed
from robustness.pytest_support.gate import PLANNED, REPORTED
from robustness.pytest_support.handover import Handover, workers_start_beside
from robustness.pytest_support.planning import (
    SAVE,
    named_path,
    named_reports,
    new_folders,
    planned_run,
)
from robustness.pytest_support.progress import Line, Watcher, uncaptured_stdout
from robustness.pytest_support.state import STATE, RunState
from robustness.report import github
from robustness.report.collected import Ending, collected
from robustness.report.json_document import sealed
from robustness.report.results import CheckResult, Report
from robustness.report.terminal import header
from robustness.report.terminal.summary import lines_of
from robustness.runtime.libraries import lasting_libraries
from robustness.runtime.plain import encodable
from robustness.store.eviction import GIGABYTE, evict
from robustness.store.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

WORKER_INPUT = "robustness"
"""What a worker is given: plan or ``None``, whether the suite, folder of the run, our pid."""

_NOTHING_WRONG = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
"""What pytest ends with if no test failed."""


class Controller:
    """The run as the user sees it; workers only decide checks."""

    def __init__(self, config: pytest.Config, *, suite: bool) -> None:
        self.config = config
        self.suite = suite
        self.started = datetime.now(UTC)
        self._began = time.monotonic()
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.new_folders: dict[Path, str] = {}
        self.exit_status = 0
        self._told_partial = False
        self.completeness: Completeness | None = None
        self.progress = Line(config)
        self.watcher: Watcher | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None, None, None]:
        """Resolve, examine and plan before any test is collected, beside workers that start.

        Other plugins' session start comes before the plan if there are workers, else behind it.
        """
        if not workers_start_beside(self.config):
            self._make_plan()
            return (yield)
        handover = Handover(self._watched())
        result = yield
        reporter = self._terminal()
        if reporter is not None and reporter.isatty:
            reporter.write("\n")  # pytest-xdist leaves the cursor behind the number of workers
        with handover.planning():
            self._make_plan()
        handover.give(self._known.plan.to_json())
        if reporter is not None and reporter.showheader and not reporter.no_header:
            for line in self.pytest_report_header():  # the rest was written when workers started
                reporter.write_line(line)
        return result

    def _make_plan(self) -> None:
        self.new_folders = new_folders(self.config)
        limit = int(self.config.getoption("robustness_store_limit") * GIGABYTE)
        with lasting_libraries():
            plan = planned_run(self.config, self.progress, today=self.started.date())
        # Behind the plan, which has marked what this run uses.
        evict(plan.store_root, limit_bytes=limit, now=time.time())
        self.completeness = Completeness(plan, narrowed=is_narrowed(self.config))
        self.config.stash[STATE] = RunState(plan=plan, threads=None, progress=self.progress)

    @property
    def _known(self) -> Completeness:
        assert self.completeness is not None, "there is no plan yet"
        return self.completeness

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the plan to a worker, as text; one that starts before there is any waits for it."""
        plan = None if self.completeness is None else self.completeness.plan.to_json()
        node.workerinput[WORKER_INPUT] = plan, self.suite, str(self._watched()), os.getpid()

    def _watched(self) -> "Path":
        """The folder of the run, which workers report their progress to."""
        if self.watcher is None:
            self.watcher = Watcher(self.progress.show)
        return self.watcher.folder

    def pytest_report_header(self) -> list[str]:
        """What is vetted, and how."""
        lines = [] if self.completeness is None else header.header(self.completeness.plan)
        return [encodable(line, sys.stdout.encoding) for line in lines]

    def _terminal(self) -> pytest.TerminalReporter | None:
        return self.config.pluginmanager.get_plugin("terminalreporter")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember what was left out on request, in a run without workers."""
        if self.completeness is not None:
            self.completeness.deselect(item.nodeid for item in items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember the tests of a run without workers."""
        self._known.collect(item.nodeid for item in session.items)

    def pytest_report_collectionfinish(self) -> list[str]:
        """Say at once that a run without workers is partial."""
        return self._partial()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Both, for a run with workers, each of which collects all tests."""
        self._known.collect(ids)
        reporter = self._terminal()
        if reporter is not None and not self._told_partial:
            for line in self._partial():
                self._told_partial = True
                reporter.write_line(line)

    def _partial(self) -> list[str]:
        """A line if checks were left out, unless only tests of the user's own were asked for."""
        if not self.suite and not self._known.collected:
            return []
        return header.partial(len(self._known.left_out), len(self._known.expected))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in a verdict."""
        self.progress.clear()
        text, test = report.__dict__.get(REPORTED), report.__dict__.get(PLANNED)
        if isinstance(text, str) and isinstance(test, str) and self.completeness is not None:
            self.completeness.decide(test, CheckResult.model_validate_json(text))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail unless every check that was collected has handed in a verdict; write the reports.

        The last of all, but for the terminal's summary: the exit status that others set counts.
        """
        self.pytest_unconfigure()
        self.progress.clear()
        if self.completeness is None or self.config.option.collectonly:
            return
        self.problems = self.completeness.problems()
        if session.exitstatus == pytest.ExitCode.OK:
            self.problems += self.completeness.hidden_failures()
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.suite:
            self.problems += self.completeness.never_collected()
        self._settle(session)
        self._save_baseline(session)
        for reporter, file in named_reports(self.config):
            try:
                write_atomically(file, reporter.render(self.report()))
            except Exception as error:  # a mistake in a report must not cost what was measured
                option = f"--robustness-{reporter.name}={file}"
                self.problems.append(f"{option} could not be written: {error}")
                self._settle(session)

    def _save_baseline(self, session: pytest.Session) -> None:
        """Save the profile of a run in which everything planned was decided."""
        target = named_path(self.config, "save_baseline")
        if target is None:
            return
        from robustness.reference.baseline import write_baseline
        from robustness.run.reference_run import baseline_of

        try:
            decided = self._known.decided
            if self._known.expected - decided.keys():
                raise BaselineError("nothing was saved, since a profile is of a whole run")
            failed = {name for name, check in decided.items() if not check.is_accepted}
            profile = baseline_of(self._known.plan, failed)
            write_baseline(profile, target)
        except BaselineError as error:
            self.problems.append(f"{SAVE}: {error}")
        except OSError as error:
            self.problems.append(f"{SAVE}={target} could not be written: {error}")
        else:
            n = len(profile.checkpoints)
            self.notes.append(f"profile of {n} checkpoint{'s' * (n > 1)} saved in {target}")
            if failed:
                self.notes.append(
                    f"it says that {len(failed)} check{'s' * (len(failed) > 1)} did not pass"
                )
            if not all(entry.whole for entry in profile.checkpoints):
                self.notes.append(
                    "it holds the text blocks that this run's verdicts needed; "
                    "--robustness-exhaustive makes it one of the whole corpus"
                )
        self._settle(session)

    def _settle(self, session: pytest.Session) -> None:
        """With a problem, a run is no success."""
        if self.problems and session.exitstatus in _NOTHING_WRONG:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.exit_status = int(session.exitstatus)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One table per checkpoint, in what the terminal's encoding has."""
        if self.completeness is None or self.config.option.collectonly:
            return
        encoding = sys.stdout.encoding
        for line in lines_of(self.report(), verbosity=self.config.option.verbose):
            *before, (last, markup) = line.pieces
            for text, own in before:
                terminalreporter.write(encodable(text, encoding), **own)
            if line.is_title:
                terminalreporter.write_sep("=", encodable(last, encoding), **markup)
            else:
                terminalreporter.write_line(encodable(last, encoding), **markup)
        made = (pair for pair in self.new_folders.items() if os.path.exists(pair[0]))  # noqa: PTH110
        self.notes += [f"made the folder {folder} for {option}" for folder, option in made]
        for note in self.notes:
            terminalreporter.write_line(f"robustness: {note}")

    def pytest_unconfigure(self) -> None:
        """Stop watching the workers, also those of a session that did not come to its end."""
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher = None

    def report(self) -> Report:
        """What has been found out so far, of a run that is planned."""
        ending = Ending(
            partial=bool(self._known.left_out),
            problems=tuple(self.problems),
            exit_status=self.exit_status,
            started=self.started,
            duration_s=time.monotonic() - self._began,
            command=shlex.join(["pytest", *map(str, self.config.invocation_params.args)]),
        )
        report = collected(self._known.plan, self._known.decided, ending)
        return report if report.shard is None else sealed(report)


@dataclass(frozen=True, eq=False)
class GitHub:
    """Tells GitHub Actions of the run: annotations on standard output, and the job's summary."""

    controller: Controller

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None, None, None]:
        """Tell of a run that is refused, which has no end."""
        try:
            return (yield)
        except pytest.UsageError as error:
            before, ours, sentence = str(error).partition("robustness: ")
            if ours and not before:
                self._write(github.publish_refusal(sentence, os.environ))
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Tell of the run, once its exit status is settled and its tables are written."""
        try:
            return (yield)
        finally:
            collecting = self.controller.config.option.collectonly
            if self.controller.completeness is not None and not collecting:
                report = self.controller.report()
                if report.problems or report.vetted:
                    self._write(github.publish(report, os.environ))

    def _write(self, lines: Sequence[str]) -> None:
        """Past pytest's capturing and terminal, each on a line of its own."""
        with uncaptured_stdout(self.controller.config) as stream:
            if stream is not None and lines:
                sys.stdout.flush()
                stream.write(github.as_output(lines, stream.encoding))
                stream.flush()
