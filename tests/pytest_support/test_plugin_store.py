"""The store under whole runs: killed, ignored, bounded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.plugin.plugin_support import Stubs, lasting, read_json, run_suite


def _records(store: Path) -> list[Path]:
    return sorted(store.glob("v1/*/??/*.json"))


def _options(stubs: Stubs, store: Path) -> tuple[str, ...]:
    return (*stubs.options, f"--robustness-store={store}")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_resumes_and_ends_with_the_same_report(stubs: Stubs, tmp_path: Path) -> None:
    whole = run_suite(tmp_path / "whole", *_options(stubs, stubs.store))
    store, folder = tmp_path / "store", tmp_path / "killed"
    folder.mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *_options(stubs, store), "--robustness-json=report.json"],
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(_records(store)) < 8:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "report.json").exists()
    before = {path: path.stat().st_mtime_ns for path in _records(store)}
    assert 8 <= len(before) < len(_records(stubs.store))
    resumed = run_suite(folder, *_options(stubs, store))
    assert lasting(resumed.facts) == lasting(whole.facts)
    after = {path: path.stat().st_mtime_ns for path in _records(store)}
    assert len(after) > len(before)
    assert all(after[path] == written for path, written in before.items())  # measured once


def test_a_fresh_run_measures_everything_anew_and_keeps_it(stubs: Stubs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    only = ("-k", "weights_are_finite")
    first = run_suite(tmp_path / "first", *_options(stubs, store), *only)
    before = {path: path.stat().st_mtime_ns for path in _records(store)}
    fresh = run_suite(tmp_path / "fresh", *_options(stubs, store), *only, "--robustness-fresh")
    after = {path: path.stat().st_mtime_ns for path in _records(store)}
    assert after.keys() == before.keys()
    assert all(after[path] > written for path, written in before.items())
    assert lasting(fresh.facts) == lasting(read_json(tmp_path / "first" / "report.json"))
    assert first.verdicts == fresh.verdicts


@pytest.mark.slow
def test_a_run_keeps_the_store_within_its_bound(stubs: Stubs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    old = store / "float32" / "old"
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(b"x" * 2_000_000)
    os.utime(old, (0, 0))
    options = (*_options(stubs, store), "--collect-only")
    run_suite(tmp_path / "roomy", *options)
    assert old.exists()
    run_suite(tmp_path / "full", *options, "--robustness-store-limit=0.001")
    assert not old.exists()
    assert _records(store)  # what the run uses itself stays
