"""What a run tells GitHub Actions: only the controller, and after everybody else has finished."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from robustness.report import github

if TYPE_CHECKING:
    from robustness.report.results import Report

_OURS = "robustness: "
"""What a refusal of this plugin begins with."""


class GitHub:
    """Writes annotations on standard output, and the summary of the job."""

    def __init__(self, config: pytest.Config, report: "Callable[[], Report | None]") -> None:
        """Start with nothing written.

        Args:
            config: of the session.
            report: gives the report of the run; ``None`` before it has been planned.
        """
        self._config = config
        self._report = report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None, None, None]:
        """Tell of a run that is refused, which has no end."""
        try:
            return (yield)
        except pytest.UsageError as error:
            if str(error).startswith(_OURS):
                sentence = str(error).removeprefix(_OURS)
                self._write(github.publish_refusal(sentence, os.environ))
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Tell of the run, once its exit status is settled and its tables are written."""
        try:
            return (yield)
        finally:
            report = self._report()
            told = report is not None and (report.problems or report.vetted)
            if report is not None and told and not self._config.option.collectonly:
                self._write(github.publish(report, os.environ))

    def _write(self, lines: Sequence[str]) -> None:
        """Past pytest's capturing and terminal, each on a line of its own."""
        stream = sys.__stdout__
        if stream is None or not lines:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        uncaptured = (
            contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled()
        )
        with (
            uncaptured,
            contextlib.suppress(OSError, ValueError),
        ):  # the verdict does not hang on it
            sys.stdout.flush()
            stream.write(github.as_output(lines, stream.encoding))
            stream.flush()
