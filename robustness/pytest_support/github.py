"""What a run tells GitHub Actions: only the controller, and after everybody else has finished."""

import os
import sys
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from robustness.pytest_support.progress import uncaptured_stdout
from robustness.report import github

if TYPE_CHECKING:
    from robustness.report.results import Report

_OURS = "robustness: "
"""What a refusal of this plugin begins with."""


class GitHub:
    """Writes annotations on standard output, and the summary of the job."""

    def __init__(self, config: pytest.Config, report: "Callable[[], Report | None]") -> None:
        """Start with nothing written; before the run is planned, it has no report."""
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
        with uncaptured_stdout(self._config) as stream:
            if stream is not None and lines:
                sys.stdout.flush()
                stream.write(github.as_output(lines, stream.encoding))
                stream.flush()
