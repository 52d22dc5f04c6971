"""How workers get the plan, while it is made: they start beside the controller and load libraries.

Planning and a worker's imports take seconds each, on different cores. A worker loads torch once the
controller does, so that a run with nothing left to compute never does so.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from robustness.runtime.libraries import MODULE, lasting_libraries, load_libraries

_PLACE = "plan"
_PLAN, _LOADING = "plan.json", "loading"
_LOOK_EVERY_S = 0.05


def workers_start_beside(config: pytest.Config) -> bool:
    """Whether workers can start before there is a plan: all on this machine, in this folder."""
    return config.pluginmanager.hasplugin("dsession") and all(
        specification == "popen" for specification in config.getoption("tx")
    )


class Handover:
    """The controller's side: a folder of the run, at whose end waiting workers end, too."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / _PLACE
        with _refusing():
            self._place.mkdir()

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Tell the workers as soon as this process loads torch and transformers."""
        planned = threading.Event()

        def watch() -> None:
            while not planned.wait(_LOOK_EVERY_S):
                if MODULE in sys.modules:
                    with suppress(OSError):  # they load when they need to
                        (self._place / _LOADING).touch()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            planned.set()
            thread.join()

    def give(self, plan: str) -> None:
        """Hand the plan to all workers."""
        unfinished = self._place / f"{_PLAN}.part"
        with _refusing():
            unfinished.write_text(plan, encoding="utf-8")
            unfinished.replace(self._place / _PLAN)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise pytest.UsageError(
            f"robustness: the workers cannot be handed the plan of the run ({error}); set TMPDIR "
            "to a folder with room"
        ) from error


def received(folder: Path, controller: int) -> str:
    """The plan, in a worker; ends the process if the controller (its pid) gave up or died."""
    place, parent, loaded = folder / _PLACE, os.getppid(), False
    while True:
        with suppress(FileNotFoundError):
            return (place / _PLAN).read_text(encoding="utf-8")
        if os.getppid() != parent or not psutil.pid_exists(controller):
            shutil.rmtree(folder, ignore_errors=True)  # as it would have done itself
        if not place.exists():
            os._exit(0)  # nobody listens
        if not loaded and (place / _LOADING).exists():
            _load()
            loaded = True
        time.sleep(_LOOK_EVERY_S)


def _load() -> None:
    """What cannot be loaded is told of where it is needed."""
    with suppress(Exception), lasting_libraries():
        load_libraries()
