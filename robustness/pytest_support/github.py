"""What a run tells GitHub Actions: only the controller, and after everybody else has finished."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import pytest

from robustness.report import github

Facts = Mapping[str, Any]

_OURS = "robustness: "
"""What a refusal of this plugin begins with."""


class GitHub:
    """Writes annotations on standard output, and the summary of the job."""

    def __init__(self, config: pytest.Config, facts: Callable[[], Facts | None]) -> None:
        """Start with nothing written.

        Args:
            config: of the session.
            facts: gives the facts of the run; ``None`` before it has been planned.
        """
        self._config = config
        self._facts = facts

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
            facts = self._facts()
            if facts is not None and not self._config.option.collectonly and _has_verdict(facts):
                self._write(github.publish(facts, os.environ))

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


def _has_verdict(facts: Facts) -> bool:
    return bool(facts["problems"]) or any(point["checks"] for point in facts["checkpoints"])
