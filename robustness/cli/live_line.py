"""How far a command has come: a line that is written over on a terminal, elsewhere now and then."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from robustness.runtime.plain import encodable, plain

TERMINAL_EVERY_S = 0.25
LOG_EVERY_S = 30.0

_CLEAR = "\r\x1b[K"


class LiveLine:
    """Progress on standard error: standard output is for the result.

    Args:
        stream: where to.
        clock: seconds, by a clock that nobody sets back.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._every_s = TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S
        self._last = clock() - (TERMINAL_EVERY_S if self._terminal else 0.0)
        self._shown = False

    @property
    def is_watched(self) -> bool:
        """Whether somebody may be waiting at a terminal."""
        return self._terminal

    def show(self, text: str) -> None:
        """Called often; writes if it is time to."""
        if self._clock() - self._last >= self._every_s:
            self._last = self._clock()
            self._put(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"robustness: {plain(text)}\n")

    def clear(self) -> None:
        """Called when there is nothing more to wait for."""
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    def _put(self, text: str) -> None:
        line = f"robustness: {plain(text)}"
        if not self._terminal:
            self._write(f"{line}\n")
            return
        room = max(20, shutil.get_terminal_size().columns - 1)
        self._write(f"{_CLEAR}{line[:room]}")
        self._shown = True

    def _write(self, text: str) -> None:
        # A closed pipe: progress is worth no failure.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(encodable(text, self._stream.encoding))
            self._stream.flush()
