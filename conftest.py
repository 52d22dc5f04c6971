"""Test configuration of the repository itself."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest

# Nothing that the tests do may reach for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Nor write into the summary of the CI job that they run in.
os.environ.pop("GITHUB_ACTIONS", None)
os.environ.pop("GITHUB_STEP_SUMMARY", None)
# Nor compile the package anew in every subprocess: it is half of the time of a run on a stub.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest_plugins = ["pytester"]
if find_spec("hypothesis"):  # of the extra "test": checkpoints are vetted from here without it, too
    pytest_plugins += ["tests.support.checkpoints.real_files"]
    pytest_plugins += [
        f"tests.support.plugin.{name}" for name in ("browser", "plugin_support", "plugin_runs")
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-slow", action="store_true", help="run all tests, also slow and long ones"
    )


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests unless they are asked for by ``--run-slow`` or ``-m``."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    if config.getoption("--run-slow") or config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="slow: run with --run-slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The same, but its subprocesses start warm."""
    from tests.support.plugin.warm_python import warm_python

    start = pytester.popen

    def popen(command: Sequence[str], **options: Any) -> Any:
        first, *rest = command
        python = warm_python() if first == sys.executable else first
        return start([python, *rest], **options)

    monkeypatch.setattr(pytester, "popen", popen)
    return pytester
