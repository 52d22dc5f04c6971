"""Progress beside pytest's own output: on a terminal, in a log, and from workers."""

import io
import os
import pty
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustness.pytest_support import progress
from robustness.pytest_support.progress import FileProgress, Line, Throttle, Watcher


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where the process writes: no terminal."""
    found = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", found)
    return found


class Screen:
    """A terminal that a process believes in; ``text`` is what it has received."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")

    @property
    def text(self) -> str:
        os.set_blocking(self._ours, False)
        try:
            return os.read(self._ours, 10_000).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def line_on_screen(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[tuple[Line, Screen]]:
    screen = Screen()
    monkeypatch.setattr(sys, "__stdout__", screen.stream)
    monkeypatch.setattr(Line, "_room", lambda _: 40)
    yield Line(pytestconfig), screen
    screen.close()


# --- the process that owns the output ------------------------------------------------------------


def test_on_a_terminal_a_line_comes_and_goes(line_on_screen: tuple[Line, Screen]) -> None:
    line, screen = line_on_screen
    line.step("model: looking for outlier dimensions in every layer")
    shown = "  model: looking for outlier dimensions "
    assert screen.text == f"{shown}\x1b[K\x1b[40D"  # cut to the room there is, and back
    line.clear()
    assert screen.text == "\x1b[K"
    line.clear()
    assert screen.text == ""


def test_a_terminal_without_room_is_left_alone(
    line_on_screen: tuple[Line, Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, screen = line_on_screen
    monkeypatch.setattr(Line, "_room", lambda _: progress.LEAST_WIDTH - 1)
    line.step("model: looking for outlier dimensions")
    assert screen.text == ""


def test_in_a_log_a_short_step_is_not_mentioned(
    log: io.StringIO, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STEP_AFTER_S", 0.1)
    line = Line(pytestconfig)
    line.step("one")
    line.step("two")
    line.clear()
    time.sleep(0.3)
    assert log.getvalue() == ""


def test_in_a_log_a_long_step_gets_a_line(
    log: io.StringIO, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STEP_AFTER_S", 0.05)
    line = Line(pytestconfig)
    line.step("model: converting to float32")
    assert _within(5, lambda: log.getvalue() != "")
    line.clear()
    assert log.getvalue() == "robustness: model: converting to float32\n"


def test_in_a_log_there_is_a_line_now_and_then(
    log: io.StringIO, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    line = Line(pytestconfig)
    line.show("too early")
    time.sleep(0.06)
    line.show("16 of 32 text blocks")
    line.show("too early again")
    assert log.getvalue() == "\n  16 of 32 text blocks "


def test_output_that_is_closed_or_cannot_say_it_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", closed)
    line = Line(pytestconfig)
    closed.close()
    line.show_now("text")
    monkeypatch.setattr(sys, "__stdout__", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    line.show_now("ΔNLL")
    monkeypatch.setattr(sys, "__stdout__", None)
    Line(pytestconfig).show_now("text")


def test_a_throttle_is_true_now_and_then() -> None:
    due = Throttle(0.05)
    assert not due()
    time.sleep(0.06)
    assert due()
    assert not due()


# --- workers -------------------------------------------------------------------------------------


def test_a_worker_leaves_its_latest_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TERMINAL_EVERY_S", 0.02)
    worker = FileProgress(tmp_path / "gw0")
    worker.show("too early")
    assert not (tmp_path / "gw0").exists()
    time.sleep(0.03)
    worker.show("32 of 156 text blocks")
    assert (tmp_path / "gw0").read_text() == "32 of 156 text blocks"
    worker.clear()
    assert (tmp_path / "gw0").read_text() == ""


def test_a_worker_without_a_folder_goes_on(tmp_path: Path) -> None:
    worker = FileProgress(tmp_path / "removed" / "gw0")
    worker.clear()
    FileProgress(tmp_path / "gw0")._put("\udc80")  # a byte of a file's name that is no UTF-8


def test_the_controller_shows_what_workers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TERMINAL_EVERY_S", 0.005)
    shown: list[str] = []
    watcher = Watcher(shown.append)
    (watcher.folder / "gw0").write_text("first")
    (watcher.folder / "gw1").write_text("second")
    (watcher.folder / "gw2").write_bytes(b"\xff")
    (watcher.folder / "gw3").write_text("")
    assert _within(5, lambda: set(shown) == {"first", "second"})
    watcher.stop()
    assert not watcher.folder.exists()
    watcher.stop()


def test_stopping_does_not_mind_workers_that_still_write() -> None:
    watcher = Watcher(lambda _: None)
    done = threading.Event()

    def write() -> None:
        worker = FileProgress(watcher.folder / "gw0")
        while not done.is_set():
            worker._put("text")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            watcher.stop()
            watcher.folder.mkdir(exist_ok=True)
    finally:
        done.set()
        thread.join()
        watcher.stop()


def test_a_watched_folder_that_vanishes_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TERMINAL_EVERY_S", 0.005)
    watcher = Watcher(lambda _: None)
    watcher.folder.rmdir()
    time.sleep(0.05)
    assert watcher._thread.is_alive()
    watcher.stop()
