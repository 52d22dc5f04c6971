"""Processes share the cores: those that wait or have ended leave theirs to the others."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.runtime.threads import SharedCores, wait_asleep, wanted_at_most


def shared(folder: Path, *, processes: int = 4, cores: int = 8, number: int = 0) -> SharedCores:
    return SharedCores(folder=folder, number=number, processes=processes, cores=cores)


def test_a_process_alone_has_all_cores(tmp_path: Path) -> None:
    threads = shared(tmp_path)
    with threads.computing():
        assert threads() == 8


@given(cores=st.integers(1, 9), busy=st.sets(st.integers(1, 3)))
def test_cores_are_divided_among_those_that_compute(
    tmp_path_factory: pytest.TempPathFactory, cores: int, busy: set[int]
) -> None:
    threads = shared(tmp_path_factory.mktemp("run"), cores=cores)
    with threads.computing():
        with ExitStack() as others:
            for number in busy:
                others.enter_context(replace(threads, number=number).computing())
            assert threads() == max(1, cores // (1 + len(busy)))
        assert threads() == cores


def test_a_killed_process_leaves_its_cores_to_the_others(tmp_path: Path) -> None:
    threads = shared(tmp_path, processes=2)
    code = f"""
import time
from pathlib import Path
from robustness.runtime.threads import SharedCores
with SharedCores(folder=Path({str(tmp_path)!r}), number=1, processes=2, cores=8).computing():
    print("computing", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"computing\n"
        assert threads() == 4
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert threads() == 8


def test_a_folder_that_cannot_be_used_costs_cores_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    threads = shared(tmp_path / "file")
    with threads.computing():
        assert threads() == 2  # as if all four computed


def test_the_user_can_bound_the_threads_of_a_process(tmp_path: Path) -> None:
    assert replace(shared(tmp_path), most=3)() == 3
    assert wanted_at_most({"OMP_NUM_THREADS": "3"}) == 3
    assert wanted_at_most({"OMP_NUM_THREADS": "4,2"}) == 4
    for text in ("", "many", "0", "-1"):
        assert wanted_at_most({"OMP_NUM_THREADS": text}) is None
    assert wanted_at_most({}) is None


def test_waiting_threads_sleep_unless_the_user_has_said_otherwise() -> None:
    environment: dict[str, str] = {}
    wait_asleep(environment)
    assert int(environment["GOMP_SPINCOUNT"]) < 300_000  # the library's default
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(own)
        wait_asleep(environment)
        assert environment == own
