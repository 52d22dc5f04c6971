"""Test configuration of the repository itself."""

import os

import pytest

# Nothing that the tests do may reach for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Nor write into the summary of the CI job that they run in.
os.environ.pop("GITHUB_ACTIONS", None)
os.environ.pop("GITHUB_STEP_SUMMARY", None)

pytest_plugins = ["pytester", "tests.browser", "tests.plugin_support", "tests.plugin_runs"]


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
