"""Progress of long steps, beside pytest's own output.

On a terminal it is text behind the cursor that comes and goes; elsewhere (a CI log) a line now
and then. Workers cannot write to the terminal: they leave their text in a file, which the
controller shows.
"""

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from robustness.runtime.plain import plain

TERMINAL_EVERY_S = 0.25
LOG_EVERY_S = 30.0
STEP_AFTER_S = 10.0
"""Without a terminal, a step before the tests is worth a line once it has taken this long."""
LEAST_WIDTH = 20

_CLEAR = "\x1b[K"


@contextlib.contextmanager
def uncaptured_stdout(config: pytest.Config) -> Iterator[TextIO | None]:
    """The process's standard output, past pytest's capturing.

    A closed pipe, or an encoding without a letter of a label, is no failure within.
    """
    capture = config.pluginmanager.get_plugin("capturemanager")
    past = contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled()
    with past, contextlib.suppress(OSError, ValueError):
        yield sys.__stdout__


class Throttle:
    """True at most every so many seconds, the first time after that long."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self) -> bool:
        """Whether it is time."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True


class Line:
    """Progress in the process that owns the terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._terminal = sys.__stdout__ is not None and sys.__stdout__.isatty()
        self._due = Throttle(TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S)
        self._shown = False
        self._step: threading.Timer | None = None

    def show(self, text: str) -> None:
        """Show the text if it is time to."""
        if self._due():
            self.show_now(text)

    def show_now(self, text: str) -> None:
        """Show the text whether or not it is time to."""
        text = plain(text)
        if not self._terminal:
            self._write(f"\n  {text} ")
            return
        text = f"  {text}"[: self._room()]
        if len(text) >= LEAST_WIDTH:
            self._write(f"{text}{_CLEAR}\x1b[{len(text)}D")  # and back to where pytest goes on
            self._shown = True

    def step(self, text: str) -> None:
        """Show a step before the tests: at once on a terminal, elsewhere only if it is long."""
        if self._terminal:
            self.show_now(text)
            return
        self._forget_step()
        self._step = threading.Timer(STEP_AFTER_S, self._write, [f"robustness: {plain(text)}\n"])
        self._step.daemon = True
        self._step.start()

    def clear(self) -> None:
        """Remove what is shown, and announce no step any more."""
        self._forget_step()
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    def _forget_step(self) -> None:
        if self._step is not None:
            self._step.cancel()
            self._step = None

    def _room(self) -> int:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return 0
        width: int = reporter._tw.fullwidth - reporter._tw.width_of_current_line - 1
        return max(0, width)

    def _write(self, text: str) -> None:
        with uncaptured_stdout(self._config) as stream:
            if stream is not None:
                stream.write(text)
                stream.flush()


class FileProgress:
    """Progress of a worker: its latest text, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._due = Throttle(TERMINAL_EVERY_S)

    def show(self, text: str) -> None:
        """Leave the text for the controller if it is time to."""
        if self._due():
            self._put(text)

    def clear(self) -> None:
        """Leave nothing to show."""
        self._put("")

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # progress is worth no failure
            self._file.write_text(text, encoding="utf-8")


Progress = Line | FileProgress
"""Where a process tells how far it has come: ``show`` after every chunk, ``clear`` at the end."""


class Watcher:
    """Shows the workers' progress in the controller, until stopped."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="robustness-progress-"))
        self._show = show
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End watching and remove the files, which workers that still live may write anew."""
        self._stopped.set()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self) -> None:
        turn = 0
        while not self._stopped.wait(2 * TERMINAL_EVERY_S):
            files = sorted(self.folder.glob("*"))  # none if somebody has removed the folder
            texts = [text for file in files if (text := _read(file))]
            if texts:
                turn += 1  # several workers take turns
                self._show(texts[turn // 4 % len(texts)])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # being written right now
