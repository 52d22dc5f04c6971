"""Progress of long steps, beside pytest's own output."""

import sys
import time

import pytest

FIRST_AFTER_S = 1.0
EVERY_S = 0.25
PLAIN_EVERY_S = 30.0


class ProgressLine:
    """Text behind the cursor that comes and goes on a terminal; a line now and then elsewhere.

    Args:
        config: of the process that owns the terminal; ``None`` in workers, which show nothing.
    """

    def __init__(self, config: pytest.Config | None) -> None:
        self._config = config
        self._reporter = None
        self._since = time.monotonic()
        self._last = self._since
        self._shown = False

    def step(self, text: str) -> None:
        """Show a step before the tests; shown at once, since it may take long."""
        self._show(f"robustness: {text} …", indent=0)

    def show(self, text: str) -> None:
        """Show how far a measurement within a test has come."""
        now = time.monotonic()
        pause = EVERY_S if self._terminal() else PLAIN_EVERY_S
        if now - self._last >= (pause if self._shown else max(pause, FIRST_AFTER_S)):
            self._last = now
            self._show(text, indent=2)

    def clear(self) -> None:
        """Take the text away."""
        if self._shown and self._terminal():
            self._write("\x1b[K")
        self._shown = False

    def _show(self, text: str, *, indent: int) -> None:
        if not self._terminal():
            if indent and self._config is not None:
                self._write(f"\n  {text} ")
            return
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")  # type: ignore[union-attr]
        room = 80
        if reporter is not None:
            room = reporter._tw.fullwidth - reporter._tw.width_of_current_line - indent - 1
        text = text[: max(0, room)]
        if len(text) >= 20:
            back = len(text) + indent
            self._write(f"{' ' * indent}{text}\x1b[K\x1b[{back}D")
            self._shown = True

    def _terminal(self) -> bool:
        return self._config is not None and sys.__stdout__ is not None and sys.__stdout__.isatty()

    def _write(self, text: str) -> None:
        if self._config is None or sys.__stdout__ is None:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            sys.__stdout__.write(text)
            sys.__stdout__.flush()
            return
        with capture.global_and_fixture_disabled():
            sys.__stdout__.write(text)
            sys.__stdout__.flush()
